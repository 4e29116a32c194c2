"""What a plan is asked for: the settings of a run that decide its cost, and the cluster it is meant for."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf import typed
from conf.exits import ConfigError
from pretrain.batch import BatchConfig, batch_sizes
from pretrain.planning.endurance import FAILURES_PER_GPU_HOUR
from pretrain.planning.hardware import Hardware, hardware
from pretrain.planning.shape import Shape

_A_GPU = Path("/dev/nvidia0")
_DEFAULT_NODE = 8
_MEASURED = "benchmarks/results"


@dataclass(frozen=True)
class Question:
    """A run, and the machines it might run on."""

    model: Shape
    batch: BatchConfig
    sequence_tokens: int
    steps: int
    precision: str
    compiled: bool
    recompute: str
    stage: int
    offload: bool
    overlap: bool
    reduce_bucket: int
    keep_last: int
    keep_every: int | None
    device: Hardware
    ranks: int
    ranks_per_node: int
    limit_hours: float | None
    sizes: tuple[int, ...]
    usd_per_gpu_hour: float | None
    failures_per_gpu_hour: float
    startup_seconds: float
    storage_bytes_per_s: float  # of one node, to the shared disk
    name: str

    @property
    def tokens(self) -> int:
        """Return the tokens of the whole run."""
        if self.batch.warmup_from is None:
            return self.steps * self.batch.tokens
        return batch_sizes(self.batch, self.sequence_tokens).consumed(self.steps) * self.sequence_tokens

    @property
    def shared_sequences(self) -> int:
        """Return the sequences that the ranks must share: those of the smallest batch."""
        return self.batch.first_tokens // self.sequence_tokens


@dataclass(frozen=True)
class PlanConfig:
    """What conf/plan.yaml adds to the settings of a run."""

    experiments: Any = None  # a list of conf/experiment, or "all": one line each
    hardware: str | None = None  # null: the cluster's
    gpus: int | None = None  # null: what the cluster's file asks for
    sizes: list[int] = field(default_factory=lambda: [1, 8, 64, 512, 4096])
    usd_per_gpu_hour: float | None = None  # null: what llm.c paid
    failures_per_gpu_hour: float | None = None  # null: Llama 3's
    startup_seconds: float = 120.0
    storage_gb_per_s: float = 2.0  # of one node, to the shared disk
    results: str | None = None  # where measured speeds lie; null: benchmarks/results, if it is there
    format: str = "text"

    def __post_init__(self) -> None:
        if self.gpus is not None and self.gpus < 1:
            raise ValueError(f"gpus must be at least 1, not {self.gpus}")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes {self.sizes} must be numbers of GPUs, each at least 1")
        if self.format not in ("text", "json"):
            raise ValueError(f"format {self.format!r} is not one of: text, json")
        if self.usd_per_gpu_hour is not None and not self.usd_per_gpu_hour >= 0:
            raise ValueError(f"usd_per_gpu_hour {self.usd_per_gpu_hour} is negative; null is what llm.c paid")
        for name in ("startup_seconds", "storage_gb_per_s", "failures_per_gpu_hour"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} {value} must be above 0")
        if self.results is not None and not Path(self.results).is_dir():
            raise ValueError(f"results={self.results} is not a folder; name that of the measured speeds")

    @property
    def measured(self) -> Path:
        """Return the folder of the measured speeds."""
        return Path(self.results or _MEASURED)


def plan_config(raw: DictConfig) -> PlanConfig:
    """Return what conf/plan.yaml adds, out of the whole composed config."""
    names = PlanConfig.__dataclass_fields__
    return typed(PlanConfig, OmegaConf.masked_copy(raw, [name for name in raw if name in names]))


def question(raw: DictConfig, config: PlanConfig, name: str) -> Question:
    """Return the question that a composed config asks. Raises ConfigError for what cannot be planned."""
    if OmegaConf.is_missing(raw, "steps"):
        raise ConfigError("steps has no value; add experiment=… or steps=… to the command")
    cluster = raw.cluster
    train = OmegaConf.select(cluster, "slurm.train") or {}
    device = _device(config.hardware or OmegaConf.select(cluster, "hardware"), train)
    per_node = int(train.get("ranks_per_node") or _DEFAULT_NODE)
    nodes = int(re.findall(r"\d+", str(train.get("nodes") or "1"))[-1])
    return Question(
        model=typed(Shape, raw.model),
        batch=typed(BatchConfig, raw.batch),
        sequence_tokens=int(raw.data.sequence_tokens),
        steps=int(raw.steps),
        precision=str(raw.precision),
        compiled=bool(raw.compile),
        recompute=str(OmegaConf.select(raw, "recompute", default="none")),
        stage=int(raw.zero.stage),
        offload=bool(raw.zero.offload),
        overlap=bool(raw.zero.overlap),
        reduce_bucket=int(raw.zero.reduce_bucket),
        keep_last=int(raw.checkpoint.keep_last),
        keep_every=raw.checkpoint.keep_every,
        device=device,
        ranks=config.gpus or (nodes * per_node if train else 1),
        ranks_per_node=per_node,
        limit_hours=limit_hours(train.get("time")),
        sizes=tuple(config.sizes),
        usd_per_gpu_hour=device.usd_per_hour if config.usd_per_gpu_hour is None else config.usd_per_gpu_hour,
        failures_per_gpu_hour=config.failures_per_gpu_hour or FAILURES_PER_GPU_HOUR,
        startup_seconds=config.startup_seconds,
        storage_bytes_per_s=config.storage_gb_per_s * 1e9,
        name=name,
    )


def limit_hours(time: str | int | None) -> float | None:
    """Return SLURM's time limit in hours: minutes, [[days-]hours:]minutes:seconds, or days-hours."""
    if time is None or str(time).upper() in ("UNLIMITED", "INFINITE", "0"):
        return None
    days, dash, rest = str(time).rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    else:
        hours, minutes, seconds = ([0, *parts, 0] if len(parts) == 1 else [0, *parts])[-3:]
    return int(days or 0) * 24 + hours + minutes / 60 + seconds / 3600


def _device(name: str | None, train: Any) -> Hardware:
    if name:
        return hardware(name)
    if train.get("gpus_per_node", 0) or _A_GPU.exists():
        raise ConfigError("what GPUs are these? add hardware=H100 (or H200, A100, A100-40) to the command")
    return hardware("CPU")
