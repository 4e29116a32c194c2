"""What a cluster is like: `cluster.slurm` in conf/cluster/*.yaml, the same facts for every run there."""

import shlex
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf import typed
from conf.exits import ConfigError
from slurm.scheduler import seconds


@dataclass(frozen=True)
class TrainJob:
    """The job that trains."""

    partition: str | None = None  # null is the cluster's default
    account: str | None = None
    qos: str | None = None
    nodes: str = "1"  # or a range, fewest-most: it goes on with fewer nodes if some are lost
    ranks_per_node: int = 8
    gpus_per_node: int = 8  # 0 trains on CPUs
    cpus_per_rank: int = 1
    memory: str | None = None  # of a node; null is the partition's default
    time: str = "1-00:00:00"
    lead_seconds: int = 300  # between the signal and the time limit; SLURM may send it a minute early
    exclude: list[str] = field(default_factory=list)
    sbatch: list[str] = field(default_factory=list)  # any other arguments of sbatch
    srun: list[str] = field(default_factory=list)  # any other of srun, such as --container-image=…
    wrap: list[str] = field(
        default_factory=list
    )  # before Python in every rank: apptainer exec --nv image.sif
    python: str | None = None  # of the ranks, in a container: its own; null is the one that submitted
    cpu_bind: str = "cores"
    wait_seconds: int = 120  # for the other ranks when the first has left
    most_crashes: int = 3  # in a row that came no further than the same checkpoint
    at_once: int | None = None  # of a sweep's runs; null is all

    def __post_init__(self) -> None:
        if self.fewest_nodes < 1 or self.fewest_nodes > self.most_nodes:
            raise ConfigError(
                f"cluster.slurm.train.nodes {self.nodes!r} is no number and no range; write 2 or 1-2"
            )
        for name in ("ranks_per_node", "cpus_per_rank", "wait_seconds", "most_crashes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"cluster.slurm.train.{name} must be at least 1, not {getattr(self, name)}")
        if self.at_once is not None and self.at_once < 1:
            raise ConfigError(f"cluster.slurm.train.at_once must be at least 1 or null, not {self.at_once}")
        _check_time("train", self.time)

    @property
    def fewest_nodes(self) -> int:
        """The number of nodes with which the job may start."""
        return _number(self.nodes.partition("-")[0])

    @property
    def most_nodes(self) -> int:
        """The number of nodes that the job uses if it can have them."""
        return _number(self.nodes.rpartition("-")[2])


@dataclass(frozen=True)
class PrepareJob:
    """The array of jobs that prepares a corpus, and the one that finalizes it."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    tasks: int = 16
    at_once: int = 8  # of the tasks
    cpus_per_task: int = 4
    memory: str | None = None
    time: str = "08:00:00"
    rounds: int = 2  # in which finalize repeats tasks that failed, before it gives up
    sbatch: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("tasks", "at_once", "cpus_per_task"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"cluster.slurm.prepare.{name} must be at least 1, not {getattr(self, name)}"
                )
        _check_time("prepare", self.time)


@dataclass(frozen=True)
class Site:
    """One cluster."""

    setup: list[str] = field(default_factory=list)  # shell lines before anything runs: module load …
    environment: dict[str, str] = field(default_factory=dict)  # of every rank: NCCL_SOCKET_IFNAME …
    train: TrainJob = field(default_factory=TrainJob)
    prepare: PrepareJob = field(default_factory=PrepareJob)


def site(cluster: Any) -> Site:
    """Return the `slurm` section of a composed `cluster`, checked; the defaults if there is none."""
    section = OmegaConf.select(cluster, "slurm")
    if section is None:
        return Site()
    assert isinstance(section, DictConfig)
    return typed(Site, section)


def environment_file(site: Site) -> str:
    """Return the shell lines that make a node ready for the program."""
    lines = ["# Sourced by every job of this run, before Python. Written by slurm.submit from cluster.slurm."]
    lines += site.setup
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(site.environment.items())]
    return "\n".join(lines) + "\n"


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _check_time(job: str, time: str) -> None:
    try:
        seconds(time)
    except ValueError as error:
        raise ConfigError(f"cluster.slurm.{job}.time: {error}") from error
