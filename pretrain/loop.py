"""The story of a run: step, report, validate, save, until the last step or until asked to stop."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

from torch import Tensor

from conf.exits import Exit
from pretrain.checkpoint import CheckpointConfig
from pretrain.distributed import Vote, largest
from pretrain.engine import Engine
from pretrain.guard.stopping import Wish
from pretrain.quality import evaluate, validate
from pretrain.run import Run
from pretrain.schedule import ScheduleConfig, learning_rate
from pretrain.step.lengths import RowLengths, folded
from pretrain.stream.detours import landed
from pretrain.stream.ledger import Entry
from pretrain.watching.disk import room

_MOST_FAILED_SAVES = 3  # in a row; each is tried again at the next interval
# Before the last state is saved again: a network file system that fails over needs seconds.
_SECONDS_BEFORE_RETRIES = (1.0, 10.0)
_LONGEST_SILENCE_SECONDS = 60.0  # of steps between two reports


@dataclass(frozen=True)
class LoopConfig:
    """How long a run is, and how often it speaks."""

    steps: int
    stop_at: int | None  # pause after this step, without another schedule
    log_every: int
    validate_every: int
    evaluate_every: int
    patience: int | None  # validations that are no better than the best; then the run ends
    schedule: ScheduleConfig
    checkpoint: CheckpointConfig
    lengths: RowLengths


def train(run: Run, config: LoopConfig) -> Exit:
    """Train from where the run stands; return Exit.OK at the end, Exit.REQUEUE when asked to stop."""
    vote = Vote(run.world, questions=4)
    saved_at, asked = time.monotonic(), False
    last = min(config.steps, config.stop_at or config.steps)
    if run.progress.step >= last or _exhausted(run, config):
        run.console.say(f"all {run.progress.step} steps are done; nothing to do")
        return Exit.OK
    if run.progress.step == 0:
        validate(run)  # what the random weights know: ln V, or something is wrong
    run.meter.resume()
    while run.progress.step < last and not _exhausted(run, config):
        _step(run, config)
        step = run.progress.step
        _freeze_heap()
        wanted = _wish(run, config.checkpoint, time.monotonic() - saved_at)
        due_now = due(step, config.log_every, last)
        asked = _silence_ends(run, reported=asked or due_now)
        votes = (wanted, run.checkpoints.writing, run.ledger.pending, asked)
        wish, writing, skipping, silent = vote.cast(*votes)
        if skipping:
            run.ledger.agree(run.world)
        _forgiving(run, partial(run.checkpoints.heard, bool(writing)))
        if run.health.comparison_due(step):
            _aside(run, "report", lambda: _compare(run))
        if silent or due_now:
            _aside(run, "report", lambda: _report(run, config))
            if _goes_back(run):
                continue
        if due(step, config.validate_every, config.steps):
            _aside(run, "evaluate", lambda: validate(run))
        if _exhausted(run, config):
            _give_up(run)
        if run.suite and (due(step, config.evaluate_every, config.steps) or _exhausted(run, config)):
            _aside(run, "evaluate", lambda: evaluate(run))
        best = run.best_now and config.checkpoint.keep_best
        if wish or best or due(step, config.checkpoint.every, last):
            _aside(run, "save", lambda: _save(run))
            saved_at = time.monotonic()
        if wish == Wish.STOP:
            return _stopped(run)
    vote.settle()
    run.heart.enter("save", run.progress.step)
    _end_saving(run)
    return Exit.OK


def due(step: int, every: int, last: int) -> bool:
    """Say whether something that happens every `every` steps, and at the last, happens after `step`."""
    return step == last if every == 0 else step % every == 0 or step == last


def _step(run: Run, config: LoopConfig) -> None:
    """Take one optimizer step and count what it consumed."""
    run.best_now = False
    run.heart.enter("data", run.progress.step)
    batch = next(run.batches)
    run.progress.sequences = landed(run.progress.sequences, run.roll_back.detours)
    run.heart.enter("step", run.progress.step)
    sizes = run.plan.sizes
    rate = learning_rate(sizes.in_full(run.progress.step), sizes.in_full(config.steps), config.schedule)
    run.norms.before(run.progress.step, run.engine.fragments())
    length = config.lengths.at(run.progress.sequences * run.sequence_tokens)
    result = run.engine.train_step([folded(tokens, length) for tokens in batch.micro_batches], rate)
    run.norms.after(run.engine.fragments(), skipped=result.skipped)
    size = sizes.at(run.progress.sequences)
    run.meter.add(result, batch, rate, tokens=size * run.sequence_tokens)
    run.progress.step += 1
    taken = (run.progress.step, run.progress.sequences, size, size // run.plan.ranks, batch.places)
    run.ledger.write(Entry(*taken), batch.skips)
    run.progress.sequences += size
    run.progress.tokens += size * run.sequence_tokens
    run.readback.send(run.progress.step, result.skipped)
    for step, skipped in run.readback.arrived():
        if news := run.health.heed(bool(skipped), step):
            run.tracker.alert("steps are skipped", news)


@cache
def _freeze_heap() -> None:
    """Let no collection look again at what the first step has left in memory, which stays.

    A full one over torch and DeepSpeed stops all ranks for half a second (karpathy/nanochat).
    """
    gc.freeze()


def _wish(run: Run, checkpoint: CheckpointConfig, since_save: float) -> Wish:
    """Return what this rank asks of all. The interval between saves is rank 0's to measure."""
    if run.saving_since is not None and not run.checkpoints.writing:
        run.save_seconds = max(run.save_seconds, time.monotonic() - run.saving_since)
        run.saving_since = None
    if run.stop.asked(run.save_seconds):
        return Wish.STOP
    if run.world.primary and checkpoint.minutes is not None and since_save >= 60 * checkpoint.minutes:
        return Wish.SAVE
    return Wish.NOTHING


def _silence_ends(run: Run, *, reported: bool) -> bool:
    """Say whether a report is due after the next step because steps take long: rank 0's clock counts.

    `reported`: one comes before that step.
    """
    seconds, steps = run.meter.since_report()
    expected = seconds / steps + (0.0 if reported else seconds)
    return run.world.primary and expected >= _LONGEST_SILENCE_SECONDS


def _aside(run: Run, phase: str, action: Callable[[], None]) -> None:
    """Do something between two steps, off the clock of the steps."""
    run.heart.enter(phase, run.progress.step)
    run.progress.productive_seconds += run.meter.pause()
    action()
    run.meter.resume()


def _report(run: Run, config: LoopConfig) -> None:
    sizes = run.plan.sizes
    left = sizes.consumed(config.steps) - sizes.consumed(run.progress.step)
    to_go = left * run.sequence_tokens
    metrics = run.meter.report(run.progress, tokens_to_go=to_go, forward_seconds=run.engine.forward_seconds())
    if (rank := run.stragglers.heed(run.meter.own_step_seconds)) is not None:
        own, median = run.meter.own_step_seconds[rank], statistics.median(run.meter.own_step_seconds)
        text = f"rank {rank} needs {own:.3f} s per step, the median rank {median:.3f} s"
        run.tracker.alert("a rank lags behind", f"{text}, at step {run.progress.step}")
    metrics |= run.norms.told()
    if sizes.first != sizes.full:
        metrics["optim/batch_tokens"] = float(sizes.at(run.progress.sequences) * run.sequence_tokens)
    if config.lengths.first != config.lengths.full:
        metrics["optim/row_tokens"] = float(config.lengths.at(run.progress.sequences * run.sequence_tokens))
    if run.load_seconds is not None:
        metrics["time/checkpoint_load_s"], run.load_seconds = run.load_seconds, None
    if run.startup_seconds is not None:
        metrics["time/startup_s"], run.startup_seconds = run.startup_seconds, None
    if run.world.primary:
        metrics |= room(run.checkpoints.root.parent, run.meter.scale.parameters)
    metrics |= run.batches.proportions(run.progress.sequences)
    run.tracker.log(run.progress.step, run.progress.tokens, metrics)
    run.console.report(run.progress.step, metrics)
    run.reported_loss = metrics["train/loss"]


def _goes_back(run: Run) -> bool:
    """Return to an earlier state if the reported loss is a spike; say whether that was done."""
    loss, spiked = run.reported_loss, run.progress
    if not run.roll_back.is_spike(loss, spiked):
        return False
    run.heart.enter("save", spiked.step)
    _forgiving(run, run.checkpoints.settle)
    if not run.roll_back.decided(loss, spiked):
        run.tracker.alert("no roll-back", f"no state is left from before the spike at step {spiked.step}")
        return False
    run.batches.close()
    found = run.checkpoints.load(run.engine, run.console.say, run.roll_back.detours)
    assert found is not None, "a roll-back names the state that it goes back to"
    run.progress = found
    run.meter.skipped_steps = run.engine.step - run.engine.adam_steps
    run.batches = run.batches_from(found.sequences, run.roll_back.detours)
    run.saved_step = run.validated_step = found.step
    text = f"from step {spiked.step} to step {found.step}, because of a loss of {loss:.4f}"
    run.tracker.alert("rolled back", f"{text}; the sequences in between are passed over")
    run.meter.resume()
    return True


def _exhausted(run: Run, config: LoopConfig) -> bool:
    """Say whether the validation loss has not fallen for so long that the run ends early."""
    return config.patience is not None and run.progress.worse_validations >= config.patience


def _give_up(run: Run) -> None:
    progress = run.progress
    run.console.say(
        f"ends early at step {progress.step}: {progress.worse_validations} validations in a row were no "
        f"better than {progress.best_loss:.4f} at step {progress.best_step}"
    )
    run.tracker.event("ended_early", step=progress.step, best_step=progress.best_step)


def _compare(run: Run) -> None:
    run.health.check_equal(run.engine.replicated(), run.progress.step)


def _save(run: Run) -> None:
    """Begin to save the state, once for each step; it is written while training goes on."""
    if run.saved_step == run.progress.step:
        return
    started = time.perf_counter()
    run.health.check_finite(_state(run.engine), run.progress.step)
    _compare(run)
    _forgiving(run, run.checkpoints.settle)  # what became of the save before
    run.saving_since = time.monotonic()
    if not _forgiving(run, partial(_begin_saving, run)):
        return
    seconds = largest(run.world, time.perf_counter() - started)[0]
    run.tracker.log(run.progress.step, run.progress.tokens, {"time/checkpoint_save_s": seconds})
    run.tracker.event("checkpoint", step=run.progress.step, seconds=round(seconds, 3))


def _begin_saving(run: Run) -> None:
    run.ledger.seal(run.world)
    run.checkpoints.begin(run.engine, run.progress)
    run.saved_step = run.progress.step


def _state(engine: Engine) -> Iterator[Tensor]:
    for fragment in engine.fragments():
        yield from (fragment.weight, fragment.exp_avg, fragment.exp_avg_sq)


def _end_saving(run: Run) -> None:
    """Return when the last state counts. A disk that refuses it again and again ends the run."""
    for seconds in (*_SECONDS_BEFORE_RETRIES, None):
        try:
            run.checkpoints.settle()
            if run.saved_step != run.progress.step:
                _begin_saving(run)
                run.checkpoints.settle()
            return
        except OSError as error:
            run.saved_step = -1
            _tell_refused(run, error)
            if seconds is None or largest(run.world, run.stop.is_late(seconds + run.save_seconds))[0]:
                raise
            time.sleep(seconds)
            run.heart.enter("save", run.progress.step)


def _forgiving(run: Run, action: Callable[[], None]) -> bool:
    """Do a part of a save and say whether it went well: a failure costs that save, one too many the run."""
    try:
        action()
        return True
    except OSError as error:
        run.checkpoints.failures += 1
        run.saved_step = -1  # the same step may be saved once more, as the last one
        _tell_refused(run, error)
        if run.checkpoints.failures >= _MOST_FAILED_SAVES:
            raise
        return False


def _tell_refused(run: Run, error: OSError) -> None:
    run.tracker.alert("a checkpoint was not saved", f"at step {run.progress.step}: {error}", "ERROR")


def _stopped(run: Run) -> Exit:
    _end_saving(run)
    run.stop.reason = reason = run.stop.reason or "another rank's request"
    run.console.say(
        f"stopped after step {run.progress.step} by {reason}; the same command goes on from there"
    )
    run.tracker.event("stopped", step=run.progress.step, reason=reason)
    return Exit.REQUEUE
