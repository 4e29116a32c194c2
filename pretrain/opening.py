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
from conf.exits import ConfigError, DatasetError
from data_prep.shards import Index, read_index
from data_prep.tokenizer import VOCABULARY_SHA256
from pretrain import frozen
from pretrain.batch import BatchPlan, plan_batch
from pretrain.checkpoint import DIRECTORY
from pretrain.config import TrainConfig
from pretrain.distributed import World, on_primary
from pretrain.guard import attempts, stopping
from pretrain.storage import commit, lease
from pretrain.stream import ledger
from pretrain.stream.data import training_order
from pretrain.stream.detours import Detour


@dataclass(frozen=True)
class Opened:
    """A run directory that this process may train in."""

    config: TrainConfig
    index: Index
    plan: BatchPlan
    identity: frozen.Identity
    attempt: int
    lease: lease.Lease | None  # rank 0 holds it
    stop_file_removed: bool
    fresh: bool  # no checkpoint has ever been there
    detours: tuple[Detour, ...] = ()  # that earlier attempts decided on


@contextlib.contextmanager
def opened(world: World, overrides: list[str]) -> Iterator[Opened]:
    """Settle the config on rank 0, freeze it, take the lease, and tell all ranks."""
    held: list[lease.Lease] = []
    try:
        facts = json.loads(on_primary(world, lambda: _begin(overrides, world.size, held)))
        config = typed(TrainConfig, _mapping(facts["config"]))
        yield Opened(
            config=config,
            index=_index(config),
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


def _begin(overrides: list[str], ranks: int, held: list[lease.Lease]) -> str:
    """Do on rank 0 all that can refuse the run, before any work; return the facts as JSON."""
    raw = frozen.settled(overrides)
    config = typed(TrainConfig, raw)
    index = _index(config)
    # Absolute, because the next attempt or an evaluation may start in another directory.
    raw.data.index = str(index.directory.resolve() / "index.json")
    plan = _plan(config, ranks)
    training_order(index, config.data, batch_sequences=plan.sequences, seed=config.seed)
    run_dir = Path(config.run_dir)
    root = run_dir / DIRECTORY
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"run_dir {run_dir} is a file; choose another")
    fresh = not commit.checkpoints(root)
    frozen.check_resume(config.resume, run_dir, not fresh)
    _make(run_dir)
    held.append(lease.acquire(run_dir, above=commit.highest_fence(root)))
    cleared = stopping.clear(run_dir)
    identity = frozen.freeze(raw, run_dir, index.fingerprint)
    attempt = attempts.begin(
        run_dir, host=socket.gethostname(), pid=os.getpid(), ranks=ranks, overrides=overrides
    )
    text = OmegaConf.to_yaml(raw, resolve=True)
    detours = ledger.detours(run_dir)
    facts = {"config": text, "identity": asdict(identity), "attempt": attempt, "detours": detours}
    return json.dumps({**facts, "stop_file_removed": cleared, "fresh": fresh})


def _make(run_dir: Path) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
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


def _index(config: TrainConfig) -> Index:
    """Return the data set's index, if the model can read its tokens."""
    index = read_index(config.data.index)
    if index.vocabulary_sha256 != VOCABULARY_SHA256:
        raise DatasetError(
            f"{config.data.index} was made with another vocabulary "
            f"(SHA-256 {index.vocabulary_sha256[:12]}…); prepare the corpus again with this version"
        )
    if index.end_of_text >= config.model.vocabulary:
        raise DatasetError(
            f"{config.data.index} holds tokens up to {index.end_of_text}; model.vocabulary is "
            f"{config.model.vocabulary}, use {index.end_of_text + 1} or more"
        )
    return index
