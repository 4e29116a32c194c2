"""Whether this process may train in a run directory, and with what: settled by rank 0 before any work."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from conf import typed
from conf.exits import ConfigError, DatasetError, NoCheckpointError
from data_prep.tokenizer import VOCABULARY_SHA256
from pretrain import frozen, imported, length
from pretrain.batch import BatchPlan, plan_batch
from pretrain.checkpoint import DIRECTORY
from pretrain.config import TrainConfig
from pretrain.distributed import World, on_primary
from pretrain.evaluation.suite import check_files
from pretrain.guard import attempts, stopping
from pretrain.peak import device_name
from pretrain.step.float8 import has_float8
from pretrain.storage import commit, durable, lease
from pretrain.stream import ledger
from pretrain.stream.detours import Detour
from pretrain.stream.sources import Source, check_caps, fingerprint, opened_sources, order_of
from pretrain.watching import reference


@dataclass(frozen=True)
class Opened:
    """A run directory that this process may train in."""

    config: TrainConfig
    sources: list[Source]
    plan: BatchPlan
    identity: frozen.Identity
    attempt: int
    lease: lease.Lease | None  # rank 0 holds it
    stop_file_removed: bool
    fresh: bool  # no checkpoint has ever been there
    detours: tuple[Detour, ...] = ()  # that earlier attempts decided on

    @property
    def corpora(self) -> list[str | None]:
        """Return the name of each source's corpus; None for one that was prepared without a name."""
        if self.config.data.synthetic is not None:
            return ["synthetic"]
        return [source.index.corpus for source in self.sources]


@contextlib.contextmanager
def opened(world: World, overrides: list[str]) -> Iterator[Opened]:
    """Settle the config on rank 0, freeze it, take the lease, and tell all ranks."""
    held: list[lease.Lease] = []
    try:
        facts = json.loads(on_primary(world, lambda: _begin(overrides, world, held)))
        config = typed(TrainConfig, _mapping(facts["config"]))
        yield Opened(
            config=config,
            sources=_sources(config),
            plan=_plan(config, world.size),
            identity=frozen.Identity(**facts["identity"]),
            attempt=facts["attempt"],
            lease=held[0] if held else None,
            stop_file_removed=facts["stop_file_removed"],
            fresh=facts["fresh"],
            detours=tuple(Detour(*each) for each in facts["detours"]),
        )
    finally:
        for each in held:
            each.release()


def _begin(overrides: list[str], world: World, held: list[lease.Lease]) -> str:
    """Do on rank 0 all that can refuse the run, before any work; return the facts as JSON."""
    raw = frozen.settled(overrides)
    length.settle(raw)
    config = typed(TrainConfig, raw)
    sources = _sources(config)
    plan = _plan(config, world.size)
    mixture = order_of(sources, config.data, batch_sequences=plan.sequences, seed=config.seed)
    check_caps(sources, mixture, plan.sizes.consumed(config.steps))
    if config.reference:
        reference.named(config.reference)
    check_files(config.evaluation)
    if config.fp8 and not has_float8(world.device):
        raise ConfigError(
            "fp8=true needs a GPU of compute capability 8.9 (Ada, Hopper) or later; use fp8=false"
        )
    # Absolute, because the next attempt or an evaluation may start in another directory.
    for part, source in zip(raw.data.get("mix") or [raw.data], sources, strict=True):
        part.index = None if config.data.synthetic else f"{source.index.location}/index.json"
    # So that a batch of another size, one day, goes on in the same order.
    raw.data.lanes = mixture.lanes
    run_dir = Path(config.run_dir)
    root = run_dir / DIRECTORY
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"run_dir {run_dir} is a file, not a directory; choose another")
    fresh = not commit.checkpoints(root)
    frozen.check_resume(config.resume, run_dir, not fresh)
    if config.init_from and fresh:
        _check_weights(Path(config.init_from))
    _make(run_dir)
    held.append(lease.acquire(run_dir, above=commit.highest_fence(root)))
    cleared = stopping.clear(run_dir)
    identity = frozen.freeze(raw, run_dir, fingerprint(sources))
    ours = {"host": socket.gethostname(), "pid": os.getpid(), "ranks": world.size}
    attempt = attempts.begin(run_dir, **ours, device=device_name(world.device), overrides=overrides)
    text = OmegaConf.to_yaml(raw, resolve=True)
    detours = ledger.detours(run_dir)
    facts = {"config": text, "identity": asdict(identity), "attempt": attempt, "detours": detours}
    return json.dumps({**facts, "stop_file_removed": cleared, "fresh": fresh})


def _check_weights(source: Path) -> None:
    """Raise NoCheckpointError or ConfigError if there are no weights to begin with in a run or a folder."""
    if not frozen.is_run(source):
        imported.files(source)
    elif not commit.checkpoints(source / DIRECTORY):
        raise NoCheckpointError(
            f"init_from={source} holds no checkpoint yet; train it on until its first save"
        )


def _make(run_dir: Path) -> None:
    try:
        durable.make_root(run_dir)
    except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
        raise ConfigError(
            f"run_dir {run_dir} cannot be a directory: {error.strerror}; choose another"
        ) from error


def _mapping(text: str) -> DictConfig:
    raw = OmegaConf.create(text)
    assert isinstance(raw, DictConfig)
    return raw


def _plan(config: TrainConfig, ranks: int) -> BatchPlan:
    try:
        return plan_batch(config.batch, sequence_tokens=config.data.sequence_tokens, ranks=ranks)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _sources(config: TrainConfig) -> list[Source]:
    """Return the run's data sets, if the model can read their tokens."""
    sources = opened_sources(config.data)
    for index in (source.index for source in sources):
        if index.vocabulary_sha256 != VOCABULARY_SHA256:
            raise DatasetError(
                f"{index.location} was made with another vocabulary "
                f"(SHA-256 {index.vocabulary_sha256[:12]}…); prepare the corpus again with this version"
            )
        if index.end_of_text >= config.model.vocabulary:
            raise DatasetError(
                f"{index.location} holds tokens up to {index.end_of_text}; model.vocabulary is "
                f"{config.model.vocabulary}, use {index.end_of_text + 1} or more"
            )
    return sources
