"""What the loop measures of the model between two steps: the validation loss, the benchmarks, samples."""

import time
from functools import partial

from torch import Tensor

from pretrain.distributed import largest
from pretrain.key_value_cache import KeyValueCache
from pretrain.meter import perplexity
from pretrain.run import Run
from pretrain.watching.reference import distance


def validate(run: Run) -> None:
    """Measure the validation loss on all ranks, if there is a validation split."""
    if run.validation is None or run.validated_step == run.progress.step:
        return
    started = time.perf_counter()
    loss = run.validation.loss(partial(_scored, run), run.world)
    seconds = largest(run.world, time.perf_counter() - started)[0]
    metrics = {"val/loss": loss, "val/ppl": perplexity(loss), "time/eval_s": seconds}
    metrics["val/bpb"] = run.validation.bits_per_byte(loss)
    for name, source in run.validation.by_source.items():
        metrics |= {f"val/loss/{name}": source.loss, f"val/bpb/{name}": source.bits_per_byte}
    metrics |= distance(run.reference, run.progress.tokens, loss)
    run.tracker.log(run.progress.step, run.progress.tokens, metrics)
    run.console.report(run.progress.step, metrics)
    run.validated_step = run.progress.step
    if run.progress.step:
        run.best_now = run.progress.validated(loss)


def _scored(run: Run, inputs: Tensor, targets: Tensor) -> Tensor:
    run.heart.beat()
    return run.engine.loss_sum(inputs, targets)


def evaluate(run: Run) -> None:
    """Take the benchmarks on all ranks, and let the model go on from the fixed prompts."""
    assert run.suite is not None
    started = time.perf_counter()

    def scores(inputs: Tensor, targets: Tensor) -> Tensor:
        run.heart.beat()
        return run.engine.token_scores(inputs, targets)

    def logits(inputs: Tensor, cache: KeyValueCache) -> Tensor:
        run.heart.beat()
        return run.engine.next_logits(inputs, cache)

    metrics = run.suite.metrics(scores)
    texts = run.suite.samples(logits)
    seconds = largest(run.world, time.perf_counter() - started)[0]
    run.tracker.log(run.progress.step, run.progress.tokens, {**metrics, "time/benchmarks_s": seconds})
    run.console.report(run.progress.step, metrics)
    if metrics:  # else prompts alone were asked for
        run.tracker.table("eval/scores", run.progress.step, ("score", "value"), list(metrics.items()))
    for prompt, text in texts:
        run.tracker.sample(run.progress.step, prompt, text)
