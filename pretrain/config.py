"""All settings of a run: the leaf configs put together, and what spans two of them."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from data_prep.tokenizer import END_OF_TEXT
from pretrain.batch import BatchConfig
from pretrain.checkpoint import CheckpointConfig
from pretrain.engine import MUON_NEEDS_WHOLE_MATRICES, PRECISIONS
from pretrain.evaluation.suite import EvaluationConfig
from pretrain.guard.heartbeat import WatchdogConfig
from pretrain.guard.stopping import StopConfig
from pretrain.health import HealthConfig
from pretrain.loop import LoopConfig
from pretrain.model import GPTConfig
from pretrain.norms import NormsConfig
from pretrain.optim import MUON_KNOWS_NO_WIDTHS, AdamWConfig
from pretrain.roll_back import RollBackConfig
from pretrain.schedule import ScheduleConfig
from pretrain.step import float8, recomputation
from pretrain.step.lengths import RowLengths
from pretrain.stream.sources import DataConfig
from pretrain.validation import ValidationConfig
from pretrain.watching.tracking import TrackingConfig
from pretrain.zero import ZeroConfig

_RESUME = ("auto", "must", "never")

# What the first attempt works out from what else is given; left out later, it stays as it is.
SETTLED = ("steps", "data.lanes")

# What else may be given anew, but only by name on the command line: it changes what is learned, not what
# has been.
DELIBERATE = ("batch.tokens",)

# What a run may change between two attempts, because no weight depends on it: where things lie, how
# the work is cut and sharded, what is written. All else is the run's identity.
FREE = (
    "run_dir",
    "resume",
    "stop_at",
    "log_every",
    "compile",
    "recompute",
    "cluster",
    "tracking",
    "validation",
    "evaluation",
    "checkpoint",
    "zero",
    "stop",
    "health",
    "roll_back",  # what it has decided on is in the ledger, and stays
    "watchdog",
    "reference",
    "norms",
    "data.index",
    "data.mix.*.index",
    "data.prefetch_batches",
    "data.skip_sequences",
    "data.fetch",
    "batch.micro_sequences",
)


@dataclass(frozen=True)
class ClusterConfig:
    """The machine a run is on."""

    name: str = "local"
    peak_tflops: float | None = None  # dense bf16, one device; null looks it up, or measures it
    hardware: str | None = None  # for pretrain.plan alone: a name it knows
    slurm: dict[str, Any] | None = None  # for slurm.submit alone

    def __post_init__(self) -> None:
        if self.peak_tflops is not None and not self.peak_tflops > 0:
            raise ValueError(f"cluster.peak_tflops {self.peak_tflops} must be above 0, or null")


def _refuse_benchmarks_between_sharded_steps(zero: ZeroConfig, evaluation: EvaluationConfig) -> None:
    """Raise ValueError for what leaves parameters of the next step ungathered, with DeepSpeed 0.19.8."""
    if zero.stage == 3 and (evaluation.tasks or evaluation.prompts):
        raise ValueError(
            "evaluation.tasks and evaluation.prompts cannot be taken while a run trains at zero.stage 3; "
            "use zero=stage2, or pretrain.evaluate on its checkpoints"
        )


@dataclass(frozen=True)
class TrainConfig:
    """One run."""

    run_dir: str
    steps: int
    seed: int = 1337
    precision: str = "autocast"
    compile: bool = False
    fp8: bool = False
    recompute: str = "none"
    resume: str = "auto"
    tokens: int | None = None
    stop_at: int | None = None
    log_every: int = 10
    batch: BatchConfig = field(default_factory=BatchConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: GPTConfig = field(default_factory=GPTConfig)
    optim: AdamWConfig = field(default_factory=AdamWConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    zero: ZeroConfig = field(default_factory=ZeroConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    roll_back: RollBackConfig = field(default_factory=RollBackConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    norms: NormsConfig = field(default_factory=NormsConfig)
    init_from: str | None = None  # a run or a Hugging Face folder whose weights it begins with
    reference: str | None = None  # a file of conf/references, to be measured against

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.log_every < 1:
            raise ValueError(f"log_every must be at least 1, not {self.log_every}")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, or null, not {self.tokens}")
        if self.stop_at is not None and self.stop_at < 1:
            raise ValueError(f"stop_at must be at least 1, or null, not {self.stop_at}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed {self.seed} is not in [0, 2**31)")
        choices = {"precision": PRECISIONS, "recompute": recomputation.MODES, "resume": _RESUME}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of: {', '.join(allowed)}")
        if self.optim.matrices == "muon" and self.zero.stage:
            raise ValueError(MUON_NEEDS_WHOLE_MATRICES)
        if self.optim.matrices == "muon" and self.model.mup:
            raise ValueError(MUON_KNOWS_NO_WIDTHS)
        if self.precision == "bf16" and self.zero.stage == 0:
            # It takes one optimizer step with a gradient of zero before the first.
            raise ValueError(
                "precision=bf16 is wrong at zero.stage 0 (DeepSpeed 0.19.8 takes a step too many); "
                "use zero=stage1, or precision=autocast"
            )
        self._refuse_what_float8_cannot()
        self._refuse_what_offload_cannot()
        if self.data.sequence_tokens > self.model.context:
            raise ValueError(
                f"data.sequence_tokens {self.data.sequence_tokens} is longer than model.context "
                f"{self.model.context}; use at most {self.model.context}"
            )
        _ = self.lengths
        _refuse_benchmarks_between_sharded_steps(self.zero, self.evaluation)
        if self.data.document_mask and self.model.dropout:
            raise ValueError(
                f"data.document_mask=true needs model.dropout=0, not {self.model.dropout}: its attention "
                "kernel has no dropout"
            )

    def _refuse_what_float8_cannot(self) -> None:
        if not self.fp8:
            return
        if self.precision == "fp32":
            raise ValueError("fp8=true trains in bf16 between its products; use precision=autocast or bf16")
        for name, size in (
            ("model.channels", self.model.channels),
            ("data.sequence_tokens", self.data.sequence_tokens),
        ):
            if size % float8.MULTIPLE:
                raise ValueError(f"fp8=true needs {name} in multiples of {float8.MULTIPLE}, not {size}")

    def _refuse_what_offload_cannot(self) -> None:
        if not self.zero.offload:
            return
        # DeepSpeed 0.19.8 sums offloaded gradients by the accumulation that it was made with; and what is
        # not finite stays in its sums, in fp32, of bf16 gradients.
        if self.batch.warmup_from is not None:
            raise ValueError("zero.offload=true needs a batch of one size; leave out batch.warmup_from")
        if self.precision == "bf16" and self.zero.stage == 2:
            raise ValueError("zero.offload=true at zero.stage 2 needs precision=autocast; or use zero=stage1")

    @property
    def end_of_text(self) -> int | None:
        """Return the token that begins a document, if documents are not to see each other; else None."""
        return END_OF_TEXT if self.data.document_mask else None

    @property
    def lengths(self) -> RowLengths:
        """Return how long rows are; raise ValueError if whole ones are not the first doubled."""
        full = self.data.sequence_tokens
        return RowLengths(full, self.batch.rows_from or full, self.batch.rows_warmup_tokens)

    @property
    def loop(self) -> LoopConfig:
        """Return what the training loop needs of it."""
        return LoopConfig(
            steps=self.steps,
            stop_at=self.stop_at,
            log_every=self.log_every,
            validate_every=self.validation.every,
            evaluate_every=self.evaluation.every,
            patience=self.validation.patience,
            schedule=self.schedule,
            checkpoint=self.checkpoint,
            lengths=self.lengths,
        )


def is_free(key: str) -> bool:
    """Say whether a run may change the setting `key` (dotted) between two attempts."""
    return any(fnmatchcase(key, name) or fnmatchcase(key, f"{name}.*") for name in FREE)
