"""What a run has come to, beside its reference: every figure that a report shows, taken from its record."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from conf.exits import Exit
from pretrain.guard import attempts
from pretrain.throughput import flops_per_token, known_peak_flops
from pretrain.watching.reference import (
    Reference,
    Speed,
    Standing,
    loss_at,
    other_corpora,
    standing,
    tolerance_at,
    without_losses,
)
from pretrain.watching.run_log import RunLog
from pretrain.watching.run_summary import Summary, settings, summary

_DIVERGED_ALERTS = ("non-finite loss",)


@dataclass(frozen=True)
class Comparison:
    """One validation beside the reference at the same tokens; what the reference does not say is None."""

    step: int
    tokens: int
    loss: float
    reference: float | None
    tolerance: float | None

    @property
    def behind(self) -> float | None:
        """Return by how many nats the run is behind."""
        return None if self.reference is None else self.loss - self.reference


@dataclass(frozen=True)
class Scorecard:
    """All facts of a report; lists are empty and values None where nothing is known."""

    name: str
    standing: Standing | None
    reference: Reference | None  # without its losses, if the run is on another corpus
    corpora: list[str | None]  # that the run reads; None is one without a name
    summary: Summary
    comparisons: list[Comparison]
    losses: list[tuple[float, float]]  # (tokens, training loss)
    scores: dict[str, float]  # the last value of every eval/… and val/… metric
    differences: list[tuple[str, Any, Any]]  # (setting, ours, the reference's)
    tokens_per_s_per_gpu: float | None
    mfu: float | None
    speeds: list[tuple[Speed, float | None]]  # published, and their MFU
    ranks: int
    gpu_hours: float
    usd: float | None
    starts: int
    ends: list[tuple[int, int | None, str]]  # attempt, step, reason, of those that did not end the run
    alerts: dict[str, int]
    skipped_steps: int
    samples: list[dict[str, Any]]
    settings: dict[str, Any]


def scorecard(run: RunLog, reference: Reference | None, *, usd_per_gpu_hour: float | None) -> Scorecard:
    """Return the facts of a run."""
    given = settings(run)
    corpora: list[str | None] = given.get("corpora") or [None]  # older records do not say
    if reference and other_corpora(reference, corpora):
        reference = without_losses(reference)
    now = summary(run, time.time())
    validated = list(_validations(run))
    ranks = int(given.get("ranks") or 1)
    gpu_hours = ranks * _paid_seconds(run, now) / 3600
    return Scorecard(
        name=run.run_dir.resolve().name,
        standing=_standing(run, reference, validated),
        reference=reference,
        corpora=corpora,
        summary=now,
        comparisons=[_comparison(reference, *each) for each in validated],
        losses=_pairs(run, "train/loss"),
        scores=_scores(now),
        differences=_differences(reference, given),
        tokens_per_s_per_gpu=_median(run, "perf/tokens_per_s_per_gpu"),
        mfu=_median(run, "perf/mfu"),
        speeds=[(each, _published_mfu(each, given)) for each in (reference.speeds if reference else [])],
        ranks=ranks,
        gpu_hours=gpu_hours,
        usd=None if usd_per_gpu_hour is None else usd_per_gpu_hour * gpu_hours,
        starts=now.attempts,
        ends=_ends(run),
        alerts=dict(Counter(str(alert["alert"]) for alert in run.alerts)),
        skipped_steps=int(now.figures.get("optim/skipped_steps") or 0),
        samples=_last_samples(run),
        settings=given,
    )


def _paid_seconds(run: RunLog, now: Summary) -> float:
    """Return the seconds in which the ranks were held: all attempts, without the gaps between them."""
    lines = attempts.read(run.run_dir)
    began = {line["attempt"]: float(line["time"]) for line in lines if line.get("event") == "begin"}
    if not began:
        return now.wall_seconds - now.seconds["lost"]
    ended = {line["attempt"]: float(line["time"]) for line in lines if line.get("event") == "end"}
    ended.setdefault(max(began), run.last_time)
    return math.fsum(max(0.0, ended.get(attempt, start) - start) for attempt, start in began.items())


def _validations(run: RunLog) -> Iterator[tuple[int, int, float]]:
    """Yield (step, tokens, loss) of every validation, one that was not finite included."""
    recorded = run.column("val/loss")
    tokens = run.column("tokens")
    columns = zip(run.steps, tokens, recorded, strict=True)
    for step, count, loss in columns:
        if math.isfinite(loss) and math.isfinite(count):
            yield step, int(count), loss


def _standing(
    run: RunLog, reference: Reference | None, validated: list[tuple[int, int, float]]
) -> Standing | None:
    """Return where the run stands. One that has lost its finite loss has diverged, validated or not."""
    losses = [(tokens, loss) for _, tokens, loss in validated]
    if _is_lost(run):
        tokens = [each for each in run.column("tokens") if math.isfinite(each)]
        losses.append((int(tokens[-1]) if tokens else 0, math.nan))
    if not losses:
        return None
    return standing(reference or _NOTHING, losses)


def _is_lost(run: RunLog) -> bool:
    """Say whether the newest attempt has found its loss, or its gradient, not finite, and none since.

    Other alerts follow the one on the loss, such as that steps are skipped, and how the attempt ended; one
    that ends between two reports has the exit code alone.
    """
    newest = max(
        (int(each.get("attempt", 0)) for each in run.events if each["event"] == "started"), default=0
    )
    if any(each.get("exit_code") == Exit.NON_FINITE for each in _of(newest, run.events)):
        return True
    times = [float(each["time"]) for each in _of(newest, run.alerts) if each["alert"] in _DIVERGED_ALERTS]
    reports = zip(run.column("time"), run.column("train/loss"), strict=True)
    finite = [moment for moment, loss in reports if math.isfinite(loss)]
    return bool(times) and times[-1] >= max(finite, default=0.0)


def _of(attempt: int, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line.get("attempt") == attempt]


_NOTHING = Reference("nothing", "", [], "", "nothing", 0.0)


def _comparison(reference: Reference | None, step: int, tokens: int, loss: float) -> Comparison:
    if reference is None:
        return Comparison(step, tokens, loss, None, None)
    return Comparison(step, tokens, loss, loss_at(reference.curve, tokens), tolerance_at(reference, tokens))


def _pairs(run: RunLog, metric: str) -> list[tuple[float, float]]:
    pairs = zip(run.column("tokens"), run.column(metric), strict=True)
    return [pair for pair in pairs if math.isfinite(pair[0]) and math.isfinite(pair[1])]


def _scores(now: Summary) -> dict[str, float]:
    wanted = {name: value for name, value in now.figures.items() if name.startswith(("eval/", "val/"))}
    return {name: value for name, value in sorted(wanted.items()) if value is not None}


def _differences(reference: Reference | None, given: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    found = []
    for each in reference.recipe if reference else []:
        ours = given.get(each.setting)
        if ours != each.value:
            found.append((each.setting, ours, each.value))
    return found


def _median(run: RunLog, metric: str) -> float | None:
    """Return the median of what was reported; a run's first reports are slow, and do not move it."""
    values = [value for value in run.column(metric) if math.isfinite(value)]
    return statistics.median(values) if values else None


def _published_mfu(speed: Speed, given: dict[str, Any]) -> float | None:
    """Return the utilisation of a published speed, by the formula that ours is stated by."""
    if speed.mfu is not None:
        return speed.mfu
    peak = known_peak_flops(speed.gpu)
    try:
        layers, channels = int(given["model.layers"]), int(given["model.channels"])
        vocabulary, tokens = int(given["model.vocabulary"]), int(given["data.sequence_tokens"])
    except (KeyError, TypeError):
        return None
    in_products = vocabulary * channels + layers * (12 * channels**2 + 13 * channels) + 2 * channels
    flops = flops_per_token(parameters=in_products, layers=layers, channels=channels, sequence_tokens=tokens)
    return None if peak is None else flops * speed.tokens_per_s_per_gpu / peak


def _ends(run: RunLog) -> list[tuple[int, int | None, str]]:
    """Return how the attempts ended that had to be followed by another."""
    lines = [line for line in attempts.read(run.run_dir) if line.get("event") == "end"]
    return [
        (int(line["attempt"]), line.get("step"), str(line.get("reason", "")))
        for line in lines
        if line.get("reason") != "done"
    ]


def _last_samples(run: RunLog) -> list[dict[str, Any]]:
    """Return the newest sample of every prompt."""
    newest: dict[str, dict[str, Any]] = {}
    for event in run.events:
        if event["event"] == "sample":
            newest[str(event.get("prompt", ""))] = event
    return list(newest.values())
