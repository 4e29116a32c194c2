"""Actors for the story of a run: they only write down what they are asked to do."""

import dataclasses
import errno
from collections.abc import Container
from pathlib import Path
from typing import Any, ClassVar

import torch

from pretrain.batch import BatchPlan
from pretrain.checkpoint import CheckpointConfig, Progress
from pretrain.distributed import World
from pretrain.engine import StepResult
from pretrain.health import Health, HealthConfig
from pretrain.loop import LoopConfig, train
from pretrain.meter import Meter, Scale
from pretrain.norms import Norms, NormsConfig
from pretrain.roll_back import RollBack, RollBackConfig
from pretrain.run import Run
from pretrain.schedule import ScheduleConfig
from pretrain.step.lengths import RowLengths
from pretrain.stream.data import Batch
from pretrain.stream.detours import Detour, landed

PLAN = BatchPlan(sequences=8, ranks=1, accumulation=2, micro_sequences=4)
SCHEDULE = ScheduleConfig(warmup_steps=3)
SEQUENCE_TOKENS = 16


class Actors:
    """The engine, the batches, the validation, the checkpoints, the tracker, the console and the stop."""

    def __init__(
        self,
        *,
        stop_after: int | None = None,
        refusing: int = 0,
        uncounted: int = 0,
        losses: dict[int, float] | None = None,
    ) -> None:
        self.story: list[Any] = []
        self.root = Path("checkpoints")
        self.rates: list[float] = []
        self.step = self.adam_steps = 0
        self.reason = ""
        self.stop_after = stop_after
        self.refusing = refusing  # how many saves the disk refuses from the first on
        self.uncounted = uncounted  # how many saves that had begun it refuses in the end
        self.late = False  # no time is left for another save
        self.failures = 0
        self.writing = False
        self.under_way: int | None = None
        self.losses: dict[int, float] = {}  # of validations, by step
        self.reported = losses or {}  # by the first sequence of a step; else 3
        self.skipped: Container[int] = ()  # steps whose gradient is not finite
        self.position = 0  # of the batches
        self.positions: list[int] = []
        self.kept: dict[int, Progress] = {}
        self.adam_steps_at: dict[int, int] = {}
        self.told_skipped: list[float] = []  # by each report

    def __next__(self) -> Batch:
        self.positions.append(self.position)
        self.position += 8
        return Batch([], 0, 0.0, "0" * 64)

    def train_step(self, _: object, rate: float) -> StepResult:
        self.step += 1
        self.adam_steps += self.step not in self.skipped
        self.rates.append(rate)
        loss = self.reported.get(self.positions[-1], 3.0 + 0.01 * (self.step % 3))
        skipped = torch.tensor(float(self.step in self.skipped))
        return StepResult(torch.tensor(loss, dtype=torch.float64), torch.tensor(1.0), skipped)

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
            raise OSError(errno.ENOSPC, "no space")
        self.under_way = progress.step
        self.kept[progress.step] = dataclasses.replace(progress)
        self.adam_steps_at[progress.step] = self.adam_steps

    def newest_position(self, at_most: int) -> int | None:
        return max((each.sequences for each in self.kept.values() if each.sequences <= at_most), default=None)

    def load(self, _: object, __: object, detours: tuple[Detour, ...]) -> Progress:
        newest = max(each.sequences for each in self.kept.values() if each.sequences <= detours[-1].begin)
        found = next(dataclasses.replace(each) for each in self.kept.values() if each.sequences == newest)
        self.step, self.adam_steps = found.step, self.adam_steps_at[found.step]
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

    by_source: ClassVar[dict[str, Any]] = {}

    def proportions(self, _: int) -> dict[str, float]:
        return {}

    sync = write

    def heard(self, anybody_writing: bool) -> None:
        if not anybody_writing:
            self.settle()

    def settle(self) -> None:
        step, self.under_way = self.under_way, None
        if step is None:
            return
        if self.uncounted:
            self.uncounted -= 1
            raise OSError(errno.EIO, "the last rename failed")
        self.failures = 0
        self.story.append(("saved", step))

    def log(self, step: int, tokens: int, metrics: dict[str, float]) -> None:
        if "train/loss" in metrics:
            assert tokens == step * 8 * 16
            self.story.append(("report", step))
            self.told_skipped.append(metrics["optim/skipped_steps"])

    def event(self, name: str, **facts: object) -> None:
        if name == "stopped":
            self.story.append((name, facts["step"]))

    def alert(self, title: str, *_: object) -> None:
        self.story.append(("alert", title))

    def report(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        self.story.append(("say", text))

    def is_late(self, _: float) -> bool:
        return self.late

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
    lengths = RowLengths(SEQUENCE_TOKENS, SEQUENCE_TOKENS)
    config = LoopConfig(schedule=SCHEDULE, checkpoint=checkpoint, lengths=lengths, **settings)
    actors.step = actors.adam_steps = first
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
        meter=Meter(Scale(50, 300.0, 1e6), world),
        stop=role,
        sequence_tokens=SEQUENCE_TOKENS,
        startup_seconds=None,
        norms=Norms(NormsConfig(), world, parameters=[], kept=lambda *_: 0.9),
        health=Health(HealthConfig(compare_every=1000), world, tmp_path),
        ledger=role,
        roll_back=RollBack(rolling or RollBackConfig(), world, role, ledger=role),
        batches_from=role.from_position,
        saved_step=first if first else -1,
    )
    return train(run, config), run


def steps_of(actors: Actors, word: str) -> list[int]:
    return [step for each, step, *_ in actors.story if each == word]
