"""The story of a run, told with actors that only write down what they are asked to do."""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loop_actors import SCHEDULE, Actors, steps_of, told

from conf.exits import Exit, NonFiniteError
from pretrain.checkpoint import CheckpointConfig
from pretrain.distributed import World
from pretrain.engine import StepResult
from pretrain.loop import LoopConfig, due, train
from pretrain.schedule import learning_rate
from pretrain.step.lengths import RowLengths


def test_a_run_reports_validates_and_saves_when_due_and_at_its_last_step(world: World, tmp_path: Path):
    actors = Actors()
    code, run = told(world, tmp_path, actors)
    assert code == Exit.OK
    assert steps_of(actors, "report") == [3, 6, 9, 10]
    assert steps_of(actors, "validate") == [0, 5, 10], "and what the random weights know"
    assert steps_of(actors, "saved") == [4, 8, 10]
    assert (run.progress.step, run.progress.sequences, run.progress.tokens) == (10, 80, 1280)
    assert actors.rates == [learning_rate(step, 10, SCHEDULE) for step in range(10)]


def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(world: World, tmp_path: Path):
    actors = Actors()
    told(world, tmp_path, actors, first=7)
    assert steps_of(actors, "validate") == [10], "no second look at random weights"
    assert steps_of(actors, "saved") == [8, 10]
    assert actors.rates == [learning_rate(step, 10, SCHEDULE) for step in range(7, 10)]


def test_a_wish_to_stop_is_granted_one_step_later_saved_and_answered_with_a_requeue(
    world: World, tmp_path: Path
):
    """The ranks' votes travel while the next step computes."""
    actors = Actors(stop_after=6)
    code, run = told(world, tmp_path, actors)
    assert code == Exit.REQUEUE
    assert run.progress.step == 7
    assert actors.story[-3:-1] == [("saved", 7), ("say", actors.story[-2][1])]
    assert "stopped after step 7 by SIGTERM" in actors.story[-2][1]
    assert actors.story[-1] == ("stopped", 7)


def test_a_pause_is_a_save_without_another_schedule(world: World, tmp_path: Path):
    actors = Actors()
    code, run = told(world, tmp_path, actors, stop_at=6)
    assert (code, run.progress.step) == (Exit.OK, 6)
    assert steps_of(actors, "saved") == [4, 6]
    assert steps_of(actors, "validate") == [0, 5], "only the last step of all validates out of turn"
    assert actors.rates == [learning_rate(step, 10, SCHEDULE) for step in range(6)]


def test_a_run_that_is_done_does_nothing(world: World, tmp_path: Path):
    actors = Actors()
    assert told(world, tmp_path, actors, first=10)[0] == Exit.OK
    assert [word for word, _ in actors.story] == ["say"]


def test_zero_means_only_at_the_end(world: World, tmp_path: Path):
    actors = Actors()
    told(world, tmp_path, actors, save_every=0, validate_every=0)
    assert steps_of(actors, "saved") == [10]
    assert steps_of(actors, "validate") == [0, 10]


def test_the_clock_asks_for_a_save_too(world: World, tmp_path: Path):
    actors = Actors()
    told(world, tmp_path, actors, save_every=0, minutes=1e-9)
    assert steps_of(actors, "saved") == [*range(2, 10), 10]


def test_a_save_that_the_disk_refuses_is_told_and_the_run_goes_on(world: World, tmp_path: Path):
    actors = Actors(refusing=1)
    code, _ = told(world, tmp_path, actors)
    assert code == Exit.OK
    assert ("alert", "a checkpoint was not saved") in actors.story
    assert steps_of(actors, "saved") == [8, 10]


def test_a_disk_that_refuses_three_times_in_a_row_ends_the_run(world: World, tmp_path: Path):
    with pytest.raises(OSError, match="no space"):
        told(world, tmp_path, Actors(refusing=3), save_every=2)


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.loop._SECONDS_BEFORE_RETRIES", (0.0, 0.0))


@pytest.mark.parametrize("stop_after", [None, 5])
def test_a_run_never_ends_well_without_its_last_state(
    world: World, tmp_path: Path, stop_after: int | None, no_wait: None
):
    """The first save of all is the last one here; the disk refuses it for good."""
    for actors in (Actors(refusing=4, stop_after=stop_after), Actors(uncounted=4, stop_after=stop_after)):
        with pytest.raises(OSError, match=r"no space|the last rename failed"):
            told(world, tmp_path, actors, save_every=0)


@pytest.mark.parametrize("stop_after", [None, 5])
@pytest.mark.parametrize("refused", [{"refusing": 2}, {"uncounted": 1}, {"uncounted": 2}])
def test_a_last_state_that_is_refused_is_saved_again(
    world: World, tmp_path: Path, stop_after: int | None, refused: dict[str, Any], no_wait: None
):
    actors = Actors(stop_after=stop_after, **refused)
    assert told(world, tmp_path, actors, save_every=0)[0] == (Exit.REQUEUE if stop_after else Exit.OK)
    assert steps_of(actors, "saved") == [6 if stop_after else 10]
    assert ("alert", "a checkpoint was not saved") in actors.story


def test_a_state_is_not_saved_again_when_the_time_is_over(world: World, tmp_path: Path, no_wait: None):
    actors = Actors(uncounted=1, stop_after=5)
    actors.late = True
    with pytest.raises(OSError, match="the last rename failed"):
        told(world, tmp_path, actors, save_every=0)


def test_a_save_that_failed_does_not_cost_the_next_one(world: World, tmp_path: Path):
    actors = Actors(uncounted=1)
    actors.writing = True  # until the next save is due, so that it is what meets the failure
    told(world, tmp_path, actors, save_every=3)
    assert steps_of(actors, "saved") == [6, 9, 10]


def test_a_streak_of_skipped_steps_is_told_by_default_before_it_ends_the_run(world: World, tmp_path: Path):
    actors = Actors()
    actors.skipped = range(11, 1000)  # right after a report, so that there is but one in the streak
    with pytest.raises(NonFiniteError, match="20 steps in a row, up to step 30"):
        told(world, tmp_path, actors, steps=100, log_every=10, save_every=0, validate_every=0)
    alerts = [what for what, *_ in actors.story if what in ("alert", "report")]
    assert alerts == ["report", "alert", "report"]
    assert ("alert", "steps are skipped") in actors.story


@pytest.mark.parametrize(
    ("step_seconds", "reports"),
    [
        (5.0, [10, 20, 23]),
        (6.0, [10, 20, 23]),
        (7.0, [9, 10, 19, 20, 23]),
        (30.0, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 23]),
        (90.0, list(range(2, 24))),
    ],
)
def test_slow_steps_are_reported_after_a_minute_of_them_however_long_validations_take(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step_seconds: float,
    reports: list[int],
):
    clock = [100.0]

    class Slow(Actors):
        def train_step(self, _: object, rate: float) -> StepResult:
            clock[0] += step_seconds
            return super().train_step(_, rate)

        def loss(self, *_: object) -> float:
            clock[0] += 500.0
            return super().loss()

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    actors = Slow()
    told(world, tmp_path, actors, steps=23, log_every=10, save_every=0, validate_every=5)
    assert steps_of(actors, "report") == reports


LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: math.nan, 10: 2.0, 12: 1.0}


def test_a_run_whose_validation_loss_stays_above_its_best_ends_early_and_well(world: World, tmp_path: Path):
    actors = Actors()
    actors.losses = LOSSES
    early = {"steps": 20, "validate_every": 2, "save_every": 0}
    code, run = told(world, tmp_path, actors, patience=3, **early)
    assert code == Exit.OK
    assert (run.progress.best_step, run.progress.best_loss, run.progress.worse_validations) == (4, 2.0, 3)
    assert steps_of(actors, "validate") == [0, 2, 4, 6, 8, 10], "NaN and an equal loss are no better"
    assert steps_of(actors, "saved") == [10]
    actors.story.clear()
    assert train(run, dataclasses.replace(_loop(patience=3), steps=20)) == Exit.OK
    assert [word for word, _ in actors.story] == ["say"], "the same command again does nothing"
    train(run, dataclasses.replace(_loop(patience=4), steps=14))
    assert steps_of(actors, "saved") == [14], "more patience goes on, and 12 is a new best"


def test_the_best_state_so_far_is_saved_where_it_is_found(world: World, tmp_path: Path):
    actors = Actors()
    actors.losses = LOSSES
    told(world, tmp_path, actors, steps=13, validate_every=2, save_every=0, keep_best=True)
    assert steps_of(actors, "saved") == [2, 4, 12, 13]


def _loop(**changed: Any) -> LoopConfig:
    settings: dict[str, Any] = {"steps": 10, "stop_at": None, "log_every": 3, "validate_every": 2}
    checkpoint = CheckpointConfig(every=0, minutes=None)
    return LoopConfig(
        schedule=SCHEDULE,
        checkpoint=checkpoint,
        lengths=RowLengths(8, 8),
        **{**settings, "evaluate_every": 0, "patience": None, **changed},
    )


@given(every=st.integers(1, 50), last=st.integers(1, 200))
def test_what_is_due_every_so_often_is_due_at_the_multiples_and_at_the_end(every: int, last: int):
    steps = [step for step in range(1, last + 1) if due(step, every, last)]
    assert steps == sorted({*range(every, last + 1, every), last})
    assert [step for step in range(1, last + 1) if due(step, 0, last)] == [last]
