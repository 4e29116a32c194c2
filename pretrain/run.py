"""Everything that one process of a run holds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pretrain.batch import BatchPlan
from pretrain.checkpoint import Checkpoints, Progress
from pretrain.distributed import World
from pretrain.engine import Engine
from pretrain.evaluation.suite import Suite
from pretrain.guard.heartbeat import Heart, Page
from pretrain.guard.stopping import StopRequest
from pretrain.health import Health, Stragglers
from pretrain.meter import Meter
from pretrain.norms import Norms
from pretrain.roll_back import RollBack
from pretrain.step.readback import Readback
from pretrain.stream.data import Batches
from pretrain.stream.detours import Detour
from pretrain.stream.ledger import Ledger
from pretrain.validation import MixedValidation, Validation
from pretrain.watching.console import Console
from pretrain.watching.reference import Reference
from pretrain.watching.tracking import Tracker


@dataclass
class Run:
    """The parts of a run, and where it stands."""

    world: World
    plan: BatchPlan
    engine: Engine
    batches: Batches
    validation: Validation | MixedValidation | None
    checkpoints: Checkpoints
    progress: Progress
    tracker: Tracker
    console: Console
    meter: Meter
    stop: StopRequest
    sequence_tokens: int
    startup_seconds: float | None  # until the first report has told them
    health: Health
    norms: Norms
    ledger: Ledger  # rank 0 writes it
    roll_back: RollBack
    batches_from: Callable[[int, Sequence[Detour]], Batches]  # from a position in the order of training on
    reference: Reference | None = None
    suite: Suite | None = None
    stragglers: Stragglers = field(default_factory=Stragglers)
    heart: Heart = field(default_factory=lambda: Heart(Page()))
    load_seconds: float | None = None  # of the state that it went on from; until a report has told them
    save_seconds: float = 0.0  # the longest save so far, from its beginning until it counted
    saving_since: float | None = None
    reported_loss: float = math.nan
    saved_step: int = -1
    validated_step: int = -1
    best_now: bool = False  # no validation loss was lower than this step's
    readback: Readback = field(init=False)  # of the flags of skipped steps

    def __post_init__(self) -> None:
        self.readback = Readback(self.world.device)
