"""Train a GPT-2, or go on with the run that lies in run_dir.

python -m pretrain.train experiment=NAME data.index=DIR/index.json run_dir=RUN [key=value …]

  steps=N zero=stage2 precision=bf16 schedule.peak=1e-3 …     any setting of conf/train.yaml
  python -m pretrain.train --cfg job experiment=gpt2_124m     show the composed settings
  torchrun --nproc-per-node 8 -m pretrain.train …             one process for each of 8 GPUs
  python -m pretrain.train run_dir=RUN                        go on with what RUN began with

Stop with Ctrl-C, SIGTERM, SIGUSR1 or a file STOP in RUN: it saves, leaves with exit code 75, and
the same command goes on from there.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from omegaconf import DictConfig, OmegaConf

from conf import typed
from conf.command import run as run_command
from conf.exits import ConfigError, DatasetError, Exit
from data_prep.shards import Index, read_index
from data_prep.tokenizer import VOCABULARY_SHA256
from pretrain import commit, frozen, lease
from pretrain.batch import BatchPlan, plan_batch
from pretrain.checkpoint import DIRECTORY, Checkpoints, Progress
from pretrain.config import TrainConfig
from pretrain.console import Console
from pretrain.data import Batches, Sequences, training_order
from pretrain.distributed import World, joined, on_primary
from pretrain.engine import Engine
from pretrain.loop import Run, train
from pretrain.meter import Meter, Scale
from pretrain.model import GPT, initialise, parameter_count
from pretrain.peak import peak_flops
from pretrain.stopping import StopRequest
from pretrain.throughput import flops_per_token
from pretrain.tracking import Tracker, open_tracker
from pretrain.validation import Validation


@dataclass(frozen=True)
class Opened:
    """A run directory that this process may train in."""

    config: TrainConfig
    index: Index
    plan: BatchPlan
    identity: frozen.Identity
    attempt: int
    lease: lease.Lease | None  # rank 0 holds it


def main(overrides: list[str]) -> Exit:
    """Train as the overrides say; return Exit.OK when the last step is done."""
    with joined() as world, opened(world, overrides) as run_dir:
        console = Console(run_dir.config.steps, world.primary)
        tracker = _tracker(run_dir, world, console)
        code = Exit.REQUEUE
        try:
            with built(run_dir, world, console, tracker) as run:
                code = train(run, run_dir.config.loop)
        finally:
            console.close()
            tracker.finish(code)
        return code


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
        )
    finally:
        for each in held:
            each.release()


@contextlib.contextmanager
def built(run_dir: Opened, world: World, console: Console, tracker: Tracker) -> Iterator[Run]:
    """Build everything that trains, with the state of the newest checkpoint, if there is one."""
    config, plan = run_dir.config, run_dir.plan
    model = GPT(config.model)
    initialise(model, config.seed)
    parameters = parameter_count(model)
    engine = _engine(model, config, plan, world)
    checkpoints = Checkpoints(
        Path(config.run_dir),
        world=world,
        lease=run_dir.lease,
        identity=run_dir.identity.borne,
        config=config.checkpoint,
    )
    found = checkpoints.load(engine, console.say)
    progress = found or Progress(began_at=run_dir.identity.began_at)
    batches = _batches(run_dir, world, progress.step)
    run = Run(
        world=world,
        plan=plan,
        engine=engine,
        batches=batches,
        validation=_validation(run_dir, console),
        checkpoints=checkpoints,
        progress=progress,
        tracker=tracker,
        console=console,
        meter=Meter(_scale(config, world, parameters), world),
        stop=StopRequest(Path(config.run_dir)),
        sequence_tokens=config.data.sequence_tokens,
        startup_seconds=time.time() - psutil.Process().create_time(),
        saved_step=progress.step if found else -1,
    )
    _announce(run, run_dir, parameters)
    try:
        yield run
    finally:
        batches.close()
        engine.close()


def _begin(overrides: list[str], ranks: int, held: list[lease.Lease]) -> str:
    """Do on rank 0 all that can refuse the run, before any work; return the facts as JSON."""
    raw = frozen.settled(overrides)
    config = typed(TrainConfig, raw)
    index = _index(config)
    # Absolute, because the next attempt or an evaluation may start in another directory.
    raw.data.index = str(index.directory.resolve() / "index.json")
    _plan(config, ranks)
    training_order(index, config.data, batch_sequences=_plan(config, 1).sequences, seed=config.seed)
    run_dir = Path(config.run_dir)
    root = run_dir / DIRECTORY
    frozen.check_resume(config.resume, run_dir, bool(commit.checkpoints(root)))
    held.append(lease.acquire(run_dir, above=commit.highest_fence(root)))
    identity = frozen.freeze(raw, run_dir, index.fingerprint)
    attempt = frozen.record_attempt(
        run_dir, host=socket.gethostname(), pid=os.getpid(), ranks=ranks, overrides=overrides
    )
    text = OmegaConf.to_yaml(raw, resolve=True)
    return json.dumps({"config": text, "identity": asdict(identity), "attempt": attempt})


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


def _engine(model: GPT, config: TrainConfig, plan: BatchPlan, world: World) -> Engine:
    return Engine(
        model,
        optim=config.optim,
        zero=config.zero,
        precision=config.precision,
        plan=plan,
        world=world,
        seed=config.seed,
        compiled=config.compile,
    )


def _batches(run_dir: Opened, world: World, first_step: int) -> Batches:
    config, plan = run_dir.config, run_dir.plan
    sequences, order = training_order(
        run_dir.index, config.data, batch_sequences=plan.sequences, seed=config.seed
    )
    return Batches(
        sequences,
        order,
        plan=plan,
        rank=world.rank,
        first_step=first_step,
        prefetch=config.data.prefetch_batches,
        device=world.device,
    )


def _validation(run_dir: Opened, console: Console) -> Validation | None:
    config = run_dir.config
    if "validation" in run_dir.index.splits:
        tokens = config.data.sequence_tokens
        sequences = Sequences(run_dir.index, "validation", tokens, cached_blocks=2)
        if len(sequences):
            return Validation(sequences, config.validation, tokens)
    console.say("no validation loss: the data set's validation split holds no whole sequence")
    return None


def _scale(config: TrainConfig, world: World, parameters: int) -> Scale:
    model, tokens = config.model, config.data.sequence_tokens
    in_products = parameters - model.context * model.channels  # positions are added, not multiplied
    cost = flops_per_token(
        parameters=in_products, layers=model.layers, channels=model.channels, sequence_tokens=tokens
    )
    peak = peak_flops(world.device, precision=config.precision, configured_tflops=config.cluster.peak_tflops)
    return Scale(config.batch.tokens, config.steps, parameters, cost, peak)


def _tracker(run_dir: Opened, world: World, console: Console) -> Tracker:
    facts: dict[str, Any] = {
        **asdict(run_dir.config),
        "ranks": world.size,
        "run_id": run_dir.identity.run_id,
        "dataset_fingerprint": run_dir.identity.dataset_fingerprint,
        "slurm_job_id": os.environ.get("SLURM_JOB_ID", ""),
    }
    return open_tracker(
        run_dir.config.tracking,
        Path(run_dir.config.run_dir),
        settings=facts,
        attempt=run_dir.attempt,
        primary=world.primary,
        say=console.say,
    )


def _announce(run: Run, run_dir: Opened, parameters: int) -> None:
    """Say what begins."""
    config, plan = run_dir.config, run.plan
    cut = f"{plan.ranks} × {plan.accumulation} × {plan.micro_sequences} × {run.sequence_tokens}"
    how = f"ZeRO-{config.zero.stage}, {config.precision}, {run.world.device.type}"
    run.console.say(
        f"{parameters:,} parameters; a step is {config.batch.tokens:,} tokens "
        f"({cut}: ranks, accumulation, sequences, tokens); {how}; data {run_dir.index.fingerprint[:12]}"
    )
    step = run.progress.step
    run.console.say(f"resumed at step {step} of {config.steps}" if step else f"begins: {config.steps} steps")
    run.tracker.event("resumed" if step else "begun", step=step)


if __name__ == "__main__":
    run_command(main, name="pretrain.train", config="train", usage=__doc__)
