"""A run that rolls back before a spike, told with actors."""

from pathlib import Path
from typing import Any

from loop_actors import SCHEDULE, Actors, steps_of, told

from conf.exits import Exit
from pretrain.distributed import World
from pretrain.roll_back import RollBackConfig
from pretrain.run import Run
from pretrain.schedule import learning_rate
from pretrain.stream.detours import Detour


def spiky(world: World, tmp_path: Path, losses: dict[int, float], **changed: Any) -> tuple[Actors, Run]:
    """Train 60 steps of 8 sequences with a report for each, a save for every fifth, and these losses."""
    actors = Actors(losses=losses)
    actors.skipped = changed.pop("skipped", ())
    rolling = RollBackConfig(above_z=6.0, most=changed.pop("most", 5))
    changed = {"steps": 60, "log_every": 1, "save_every": 5, "validate_every": 0, **changed}
    code, run = told(world, tmp_path, actors, rolling=rolling, **changed)
    assert (code, run.progress.step) == (Exit.OK, changed["steps"])
    return actors, run


def test_a_spike_takes_the_run_back_and_its_data_is_passed_over(world: World, tmp_path: Path):
    """The loss of step 43 spikes; the last state from before it is that of step 40."""
    actors, run = spiky(world, tmp_path, {8 * 42: 9.0})
    (detour,) = (each for each in actors.story if each[0] == "detour")
    assert detour[1:3] == (43, Detour(320, 344))
    assert "loss 9.0000" in detour[3]
    assert steps_of(actors, "loaded") == [40]
    assert actors.positions == [*range(0, 344, 8), *range(344, 344 + 20 * 8, 8)]
    assert run.progress.sequences == 344 + 20 * 8
    assert run.progress.tokens == 60 * 128, "what was passed over was not consumed"
    assert actors.rates[43:] == [learning_rate(step, 60, SCHEDULE) for step in range(40, 60)]
    assert ("alert", "rolled back") in actors.story


def test_a_state_of_the_spike_itself_is_not_gone_back_to(world: World, tmp_path: Path):
    """A report covers ten steps; step 325 was saved in the middle of those that spiked."""
    losses = dict.fromkeys(range(8 * 320, 8 * 330, 8), 9.0)
    actors, _ = spiky(world, tmp_path, losses, steps=340, log_every=10)
    assert steps_of(actors, "loaded") == [320]


def test_a_spike_that_comes_again_leads_back_to_the_same_state(world: World, tmp_path: Path):
    actors, _ = spiky(world, tmp_path, {8 * 42: 9.0, 8 * 43: 9.0, 8 * 44: 9.0})
    assert steps_of(actors, "loaded") == [40, 40, 40]
    assert actors.positions[42:46] == [8 * 42, 8 * 43, 8 * 44, 8 * 45]


def test_after_so_many_roll_backs_spikes_raise_alerts_alone(world: World, tmp_path: Path):
    actors, _ = spiky(world, tmp_path, {8 * 42: 9.0, 8 * 43: 9.0, 8 * 44: 9.0}, most=1)
    assert steps_of(actors, "loaded") == [40]


def test_a_spike_before_the_first_state_is_told_and_trained_through(world: World, tmp_path: Path):
    actors, _ = spiky(world, tmp_path, {8 * 42: 9.0}, save_every=50)
    assert steps_of(actors, "loaded") == []
    assert ("alert", "no roll-back") in actors.story


def test_nobody_goes_back_who_has_not_asked_for_it(world: World, tmp_path: Path):
    actors = Actors(losses={8 * 42: 9.0})
    assert told(world, tmp_path, actors, steps=60, log_every=1, save_every=5)[0] == Exit.OK
    assert steps_of(actors, "loaded") == []


def test_a_skipped_step_that_was_gone_back_before_is_not_counted_twice(world: World, tmp_path: Path):
    """Step 42 is skipped both times; the loss of step 43 spikes, and the state of step 40 saw one skip."""
    actors, _ = spiky(world, tmp_path, {8 * 42: 9.0}, skipped={20, 42})
    assert steps_of(actors, "loaded") == [40]
    told_at = list(zip(steps_of(actors, "report"), actors.told_skipped, strict=True))
    assert told_at[41:46] == [(42, 2), (43, 2), (41, 1), (42, 2), (43, 2)]
