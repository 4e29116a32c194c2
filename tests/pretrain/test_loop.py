"""The story of a run, told with actors that only write down what they are asked to do."""

import dataclasses
import errno
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conf.exits import Exit
from pretrain.batch import BatchPlan
from pretrain.checkpoint import CheckpointConfig, Progress
from pretrain.distributed import World
from pretrain.engine import StepResult
from pretrain.health import Health, HealthConfig
from pretrain.loop import LoopConfig, due, train
from pretrain.meter import Meter, Scale
from pretrain.norms import Norms, NormsConfig
from pretrain.roll_back import RollBack, RollBackConfig
from pretrain.run import Run
from pretrain.schedule import ScheduleConfig, learning_rate
from pretrain.stream.data import Batch
from pretrain.stream.detours import Detour, landed

PLAN = BatchPlan(sequences=8, ranks=1, accumulation=2, micro_sequences=4)
SCHEDULE = ScheduleConfig(warmup_steps=3)


class Actors:
    """The engine, the batches, the validation, the checkpoints, the tracker, the console and the stop."""

    def __init__(
        self, *, stop_after: int | None = None, refusing: int = 0, losses: dict[int, float] | None = None
    ) -> None:
        self.story: list[Any] = []
        self.root = Path("checkpoints")
        self.rates: list[float] = []
        self.step = 0
        self.reason = ""
        self.stop_after = stop_after
        self.refusing = refusing  # how many saves the disk refuses from the first on
        self.failures = 0
        self.writing = False
        self.under_way: int | None = None
        self.losses: dict[int, float] = {}  # of validations, by step
        self.reported = losses or {}  # by the first sequence of a step; else 3
        self.position = 0  # of the batches
        self.positions: list[int] = []
        self.kept: dict[int, Progress] = {}

    def __next__(self) -> Batch:
        self.positions.append(self.position)
        self.position += 8
        return Batch([], 0, 0.0, "0" * 64)

    def train_step(self, _: object, rate: float) -> StepResult:
        self.step += 1
        self.rates.append(rate)
        loss = self.reported.get(self.positions[-1], 3.0 + 0.01 * (self.step % 3))
        return StepResult(torch.tensor(loss, dtype=torch.float64), torch.tensor(1.0), torch.tensor(0.0))

    def forward_seconds(self) -> float:
        return 0.0

    def fragments(self) -> list[object]:
        return []

    replicated = fragments

    def loss(self, *_: object) -> float:
        self.story.append(("validate", self.step))
        return self.losses.get(self.step, 4.0)

    def bits_per_byte(self, loss: float) -> float:
        return loss

    def begin(self, _: object, progress: Progress) -> None:
        if self.refusing:
            self.refusing -= 1
            self.failures += 1
            raise OSError(errno.ENOSPC, "no space")
        self.failures = 0
        self.under_way = progress.step
        self.kept[progress.step] = dataclasses.replace(progress)

    def newest_position(self, at_most: int) -> int | None:
        return max((each.sequences for each in self.kept.values() if each.sequences <= at_most), default=None)

    def load(self, _: object, __: object, detours: tuple[Detour, ...]) -> Progress:
        newest = max(each.sequences for each in self.kept.values() if each.sequences <= detours[-1].begin)
        found = next(dataclasses.replace(each) for each in self.kept.values() if each.sequences == newest)
        self.step = found.step
        self.story.append(("loaded", found.step))
        return found

    def from_position(self, position: int, detours: tuple[Detour, ...]) -> "Actors":
        self.position = landed(position, detours)
        return self

    def close(self) -> None: ...

    def pass_over(self, detour: Detour, *, step: int, because: str) -> None:
        self.story.append(("detour", step, detour, because))

    def write(self, *_: object) -> None: ...

    pending = False  # of skipped sequences

    def seal(self, _: object) -> None: ...

    by_source: ClassVar[dict[str, float]] = {}

    def proportions(self, _: int) -> dict[str, float]:
        return {}

    sync = write

    def heard(self, anybody_writing: bool) -> None:
        if not anybody_writing:
            self.settle()

    def settle(self) -> None:
        if self.under_way is not None:
            self.story.append(("saved", self.under_way))
        self.under_way = None

    def log(self, step: int, tokens: int, metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            assert tokens == step * 8 * 16
            self.story.append(("report", step))

    def event(self, name: str, **facts: object) -> None:
        if name == "stopped":
            self.story.append((name, facts["step"]))

    def alert(self, title: str, *_: object) -> None:
        self.story.append(("alert", title))

    def report(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        self.story.append(("say", text))

    def asked(self, _: float = 0.0) -> bool:
        if self.stop_after is not None and self.step >= self.stop_after:
            self.reason = "SIGTERM"
        return bool(self.reason)


def told(world: World, tmp_path: Path, actors: Actors, *, first: int = 0, **changed: Any) -> tuple[Any, Run]:
    """Let the actors train from step `first`; return the exit code and the run as it stands then."""
    rolling = changed.pop("rolling", None)
    checkpoint = CheckpointConfig(
        every=changed.pop("save_every", 4),
        minutes=changed.pop("minutes", None),
        keep_best=changed.pop("keep_best", False),
    )
    settings: dict[str, Any] = {"steps": 10, "stop_at": None, "log_every": 3, "validate_every": 5}
    settings |= {"evaluate_every": 0, "patience": None, **changed}
    config = LoopConfig(schedule=SCHEDULE, checkpoint=checkpoint, **settings)
    actors.step = first
    role: Any = actors
    run = Run(
        world=world,
        plan=PLAN,
        engine=role,
        batches=role,
        validation=role,
        checkpoints=role,
        progress=Progress(first, 8 * first, 128 * first),
        tracker=role,
        console=role,
        meter=Meter(Scale(128, 10, 50, 300.0, 1e6), world),
        stop=role,
        sequence_tokens=16,
        startup_seconds=None,
        norms=Norms(NormsConfig(), world, parameters=[], beta1=0.9),
        health=Health(HealthConfig(compare_every=1000), world, tmp_path),
        ledger=role,
        roll_back=RollBack(rolling or RollBackConfig(), world, role, ledger=role),
        batches_from=role.from_position,
        saved_step=first if first else -1,
    )
    return train(run, config), run


def steps_of(actors: Actors, word: str) -> list[int]:
    return [step for each, step, *_ in actors.story if each == word]


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


@pytest.mark.parametrize("stop_after", [None, 5])
def test_a_run_never_ends_well_without_its_last_state(world: World, tmp_path: Path, stop_after: int | None):
    """The first save of all is the last one here; the disk refuses it for good."""
    actors = Actors(refusing=2, stop_after=stop_after)
    with pytest.raises(OSError, match="no space"):
        told(world, tmp_path, actors, save_every=0)


def test_a_last_save_that_succeeds_when_tried_again_is_a_good_end(world: World, tmp_path: Path):
    actors = Actors(refusing=1)
    assert told(world, tmp_path, actors, save_every=0)[0] == Exit.OK
    assert steps_of(actors, "saved") == [10]


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
        **{**settings, "evaluate_every": 0, "patience": None, **changed},
    )


def spiky(world: World, tmp_path: Path, losses: dict[int, float], **changed: Any) -> tuple[Actors, Run]:
    """Train 60 steps of 8 sequences with a report for each, a save for every fifth, and these losses."""
    actors = Actors(losses=losses)
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


@given(every=st.integers(1, 50), last=st.integers(1, 200))
def test_what_is_due_every_so_often_is_due_at_the_multiples_and_at_the_end(every: int, last: int):
    steps = [step for step in range(1, last + 1) if due(step, every, last)]
    assert steps == sorted({*range(every, last + 1, every), last})
    assert [step for step in range(1, last + 1) if due(step, 0, last)] == [last]
