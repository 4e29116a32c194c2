"""How a run is put together: each part from its own settings, with the state of the newest checkpoint."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
from torch import nn

from data_prep.tokenizer import load_tokenizer
from pretrain import trained
from pretrain.batch import BatchPlan
from pretrain.checkpoint import Checkpoints, Progress
from pretrain.config import TrainConfig
from pretrain.distributed import World, job_ends_at, on_primary
from pretrain.engine import Engine
from pretrain.evaluation.suite import Suite
from pretrain.guard import attempts, stopping
from pretrain.guard.heartbeat import Heart, Page
from pretrain.guard.stopping import StopRequest
from pretrain.health import Health
from pretrain.meter import Meter, Scale
from pretrain.model import GPT, initialise, parameter_count
from pretrain.norms import Norms, kept_of_moments
from pretrain.opening import Opened
from pretrain.peak import peak_flops
from pretrain.roll_back import RollBack, losses_up_to
from pretrain.run import Run
from pretrain.step.float8 import Float8Linear
from pretrain.stream import ledger
from pretrain.stream.data import Batches
from pretrain.stream.detours import Detour, merged
from pretrain.stream.ledger import Ledger
from pretrain.stream.skips import Skips
from pretrain.stream.sources import training_data
from pretrain.throughput import flops_per_token, recomputed_flops_per_token
from pretrain.validation import opened_validation
from pretrain.watching import reference
from pretrain.watching.console import Console
from pretrain.watching.redaction import redacted
from pretrain.watching.reference import Reference
from pretrain.watching.tracking import Tracker
from pretrain.zero import stage_among


@contextlib.contextmanager
def built(
    opened: Opened, world: World, console: Console, tracker: Tracker, *, heart: Heart, page: Page
) -> Iterator[Run]:
    """Build everything that trains, with the state of the newest checkpoint, if there is one."""
    config, plan = opened.config, opened.plan
    model = _model(opened)
    engine = _engine(model, config, plan, world)
    checkpoints = _checkpoints(opened, world, tracker, heart)
    began_loading = time.perf_counter()
    found = checkpoints.load(engine, console.say, merged(opened.detours))
    load_seconds = time.perf_counter() - began_loading
    progress = found or Progress(began_at=opened.identity.began_at)
    written = _ledger(opened, world)
    roll_back = _roll_back(opened, world, checkpoints, progress, written)
    run = Run(
        world=world,
        plan=plan,
        engine=engine,
        batches=_batches(opened, world, progress.sequences, roll_back.detours),
        batches_from=partial(_batches, opened, world),
        roll_back=roll_back,
        validation=opened_validation(opened.sources, config.data, config.validation, say=console.say),
        checkpoints=checkpoints,
        progress=progress,
        tracker=tracker,
        console=console,
        meter=_meter(config, world, model, engine),
        stop=_stop_request(config, page),
        health=Health(config.health, world, checkpoints.root),
        norms=_norms(config, world, model),
        suite=_suite(config, world),
        reference=_reference(opened, console),
        ledger=written,
        heart=heart,
        sequence_tokens=config.data.sequence_tokens,
        load_seconds=load_seconds if found else None,
        startup_seconds=time.time() - psutil.Process().create_time(),
        saved_step=progress.step if found else -1,
    )
    _announce(run, opened, run.meter.scale.parameters)
    try:
        yield run
    except BaseException as error:  # before anything is closed, which may fail in its turn
        page.note(end=redacted(attempts.raised(error)))
        raise
    finally:
        heart.enter("leave", run.progress.step)
        run.batches.close()
        run.ledger.close()
        engine.close()


def _engine(model: GPT, config: TrainConfig, plan: BatchPlan, world: World) -> Engine:
    zero = config.zero
    stage = stage_among(world.size, zero.stage, config.precision, offload=zero.offload)
    return Engine(
        model,
        optim=config.optim,
        zero=replace(zero, stage=stage),
        precision=config.precision,
        plan=plan,
        world=world,
        seed=config.seed,
        compiled=config.compile,
        width_ratio=config.model.width_ratio,
    )


def _model(opened: Opened) -> GPT:
    """Return the model as the run begins; where it has a checkpoint, that one counts."""
    config = opened.config
    model = GPT(
        config.model,
        end_of_text=config.end_of_text,
        recompute=config.recompute,
        linear=Float8Linear if config.fp8 else nn.Linear,
    )
    if config.init_from and opened.fresh:
        model.load_state_dict(trained.initial_weights(Path(config.init_from), config.model))
    else:
        initialise(model, config.seed)
    return model


def _suite(config: TrainConfig, world: World) -> Suite | None:
    if not config.evaluation.tasks and not config.evaluation.prompts:
        return None
    return Suite(config.evaluation, world, config.model, load_tokenizer())


def _checkpoints(opened: Opened, world: World, tracker: Tracker, heart: Heart) -> Checkpoints:
    checkpoints = Checkpoints(
        Path(opened.config.run_dir),
        world=world,
        lease=opened.lease,
        identity=opened.identity.borne,
        config=opened.config.checkpoint,
    )
    checkpoints.on_saved = tracker.saved
    checkpoints.beat = heart.beat
    return checkpoints


def _ledger(opened: Opened, world: World) -> Ledger:
    """Return the ledger as this rank sees it, with what earlier attempts have skipped. Collective."""
    path, budget = Path(opened.config.run_dir), opened.config.data.skip_sequences
    known: list[int] = []
    if budget:
        known = json.loads(on_primary(world, lambda: json.dumps(sorted(ledger.skipped(path)))))
    return Ledger(path if world.primary else None, opened.attempt, Skips(budget, known))


def _roll_back(
    opened: Opened, world: World, checkpoints: Checkpoints, progress: Progress, written: Ledger
) -> RollBack:
    directory = Path(opened.config.run_dir)
    previous_record = directory if world.primary and opened.attempt else None
    return RollBack(
        opened.config.roll_back,
        world,
        checkpoints,
        ledger=written,
        losses=losses_up_to(previous_record, progress.step) if previous_record else (),
        detours=opened.detours,
        position=progress.sequences,
    )


def _batches(opened: Opened, world: World, position: int, detours: Sequence[Detour]) -> Batches:
    config, plan = opened.config, opened.plan
    sequences, mixture = training_data(
        opened.sources,
        config.data,
        batch_sequences=plan.sequences,
        seed=config.seed,
        # While the batch grows, a rank's sequences come from ever other lanes.
        share=None if plan.first_sequences else plan.sequences // plan.ranks,
    )
    return Batches(
        sequences,
        mixture,
        plan=plan,
        rank=world.rank,
        first_sequence=position,
        prefetch=config.data.prefetch_batches,
        device=world.device,
        names=[source.name for source in opened.sources],
        detours=detours,
    )


def _reference(opened: Opened, console: Console) -> Reference | None:
    """Return what the run is compared with, without its losses where those are of another text."""
    if opened.config.reference is None:
        return None
    found = reference.named(opened.config.reference)
    if other := reference.other_corpora(found, opened.corpora):
        told = " or ".join(found.corpora)
        console.say(f"no distance to {found.title}: the run reads {', '.join(other)}, not {told}")
        return reference.without_losses(found)
    return found


def _stop_request(config: TrainConfig, page: Page) -> StopRequest:
    began_at = psutil.Process().create_time()
    return StopRequest(
        Path(config.run_dir),
        page=page,
        time_limit=stopping.time_limit(config.stop, began_at=began_at, ends_at=job_ends_at()),
        margin_seconds=config.stop.margin_seconds,
    )


def _norms(config: TrainConfig, world: World, model: GPT) -> Norms:
    names = [name for name, _ in model.named_parameters()]
    kept = kept_of_moments(model.named_parameters(), config.optim)
    return Norms(config.norms, world, parameters=names, kept=kept)


def _meter(config: TrainConfig, world: World, model: GPT, engine: Engine) -> Meter:
    scale = _scale(config, world, parameter_count(model))
    return Meter(scale, world, skipped_steps=engine.step - engine.adam_steps)


def _scale(config: TrainConfig, world: World, parameters: int) -> Scale:
    model, tokens = config.model, config.data.sequence_tokens
    in_products = parameters - model.context * model.channels  # positions are added, not multiplied
    shape = {"layers": model.layers, "channels": model.channels, "sequence_tokens": tokens}
    cost = flops_per_token(parameters=in_products, **shape)
    # What a selective one repeats is no product.
    again = recomputed_flops_per_token(**shape) if config.recompute == "full" else 0.0
    peak = peak_flops(world.device, precision=config.precision, configured_tflops=config.cluster.peak_tflops)
    return Scale(parameters, cost, peak, again, config.optim.clip_norm)


def _announce(run: Run, opened: Opened, parameters: int) -> None:
    """Say what begins."""
    config, plan = opened.config, run.plan
    cut = f"{plan.ranks} × {plan.accumulation} × {plan.micro_sequences} × {run.sequence_tokens}"
    how = f"ZeRO-{run.engine.stage}, {config.precision}, {run.world.device.type}"
    run.console.say(
        f"{parameters:,} parameters; a step is {config.batch.told} tokens "
        f"({cut}: ranks, accumulation, sequences, tokens); {how}; "
        f"data {opened.identity.dataset_fingerprint[:12]}"
    )
    if len(opened.sources) > 1:
        run.console.say(run.batches.told(plan.sizes.consumed(config.steps)))
    if opened.stop_file_removed:
        run.console.say(f"removed the file {stopping.STOP_FILE}, which had stopped the run")
    step = run.progress.step
    run.console.say(f"resumed at step {step} of {config.steps}" if step else f"begins: {config.steps} steps")
    run.tracker.event("resumed" if step else "begun", step=step)
