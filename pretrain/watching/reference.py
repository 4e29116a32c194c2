"""How far a run is from a published one at the same number of tokens, and whether that is on track.

The published figures are data: `conf/references/*.yaml`, each value with the place it was read from.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from conf import option, typed

# Early on a curve falls so fast that a warm-up a tenth longer or shorter moves it by more than its
# tolerance; so a run is never measured more finely than by a tenth of its tokens.
_SLACK = 0.1
# A loss so far above the run's own lowest is no noise: GPT-2's loss falls by 0.5 nats between a
# tenth and the whole of its training.
_DIVERGED_NATS = 0.5
ON_TRACK, AHEAD, BEHIND, DIVERGED, UNKNOWN = "on track", "ahead", "behind", "diverged", "nothing to compare"


@dataclass(frozen=True)
class Point:
    """What a published run had reached after a number of tokens."""

    step: int
    tokens: int
    source: str
    val_loss: float  # nats per token


@dataclass(frozen=True)
class Level:
    """What somebody's finished weights reach."""

    name: str
    source: str
    val_loss: float | None = None
    hellaswag: float | None = None  # length-normalised accuracy, completion style, as llm.c counts
    hellaswag_harness: float | None = None  # as lm-evaluation-harness counts


@dataclass(frozen=True)
class RecipeSetting:
    """A setting of the published run, under the name that it has in conf/train.yaml."""

    setting: str
    value: Any
    source: str


@dataclass(frozen=True)
class Speed:
    """A published throughput of the same model, or of its nearest relative."""

    code: str
    gpu: str
    gpus: int
    tokens_per_s_per_gpu: float
    source: str
    mfu: float | None = None  # if published, or the shape is not quite the same; else it follows


@dataclass(frozen=True)
class Published:
    """What the whole run took."""

    machine: str
    hours: float
    source: str
    usd: float | None = None


@dataclass(frozen=True)
class Reference:
    """A published run, or published weights, of one model on one corpus."""

    title: str
    model: str  # a file of conf/model
    corpora: list[str]  # files of conf/corpus: what it was trained on, then other samples of the same text
    validation: str
    source: str
    tolerance: float  # nats by which two equally good runs may differ at the end
    points: list[Point] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    recipe: list[RecipeSetting] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    same_validation: bool = (
        False  # the documents that it was validated on are those that data_prep holds back
    )

    def __post_init__(self) -> None:
        cited = [*self.points, *self.levels, *self.recipe, *self.speeds, *self.published]
        if missing := [each for each in cited if not each.source.strip()]:
            raise ValueError(f"{self.title}: {missing[0]} has no source")
        if any(later.tokens <= earlier.tokens for earlier, later in pairwise(self.points)):
            raise ValueError(f"{self.title}: the points must ascend in tokens")

    @property
    def curve(self) -> list[tuple[int, float]]:
        """Return (tokens, validation loss), ascending in tokens."""
        return [(each.tokens, each.val_loss) for each in self.points]


@dataclass(frozen=True)
class Standing:
    """Where a run is beside its reference, at the last validation; what is not known is None."""

    verdict: str  # one of ON_TRACK, AHEAD, BEHIND, DIVERGED, UNKNOWN
    tokens: int
    loss: float
    reference_loss: float | None
    behind: float | None  # nats; below 0 is ahead
    tolerance: float | None  # nats, at this number of tokens
    tokens_behind: float | None  # how many tokens ago the reference had this loss; below 0 is ahead


def named(name: str) -> Reference:
    """Return `conf/references/<name>.yaml`. Raises ConfigError, naming the choices, if there is none."""
    return typed(Reference, option("references", name))


def other_corpora(reference: Reference, corpora: Sequence[str | None]) -> list[str]:
    """Return those of a run's corpora that are not the reference's; None is one without a name."""
    return [name for name in corpora if name is not None and name not in reference.corpora]


def without_losses(reference: Reference) -> Reference:
    """Return what holds on any corpus: recipe, speeds, cost, benchmarks."""
    return replace(reference, points=[], levels=[replace(each, val_loss=None) for each in reference.levels])


def loss_at(curve: Sequence[tuple[int, float]], tokens: float) -> float | None:
    """Return the loss of an ascending `curve` at `tokens`, or None where it says nothing.

    Between two points it is linear in the logarithm of the tokens, as losses nearly are.
    """
    if not curve or not curve[0][0] <= tokens <= curve[-1][0]:
        return None
    after = bisect_left(curve, tokens, key=lambda point: point[0])
    right = curve[after]
    if right[0] == tokens:
        return right[1]
    left = curve[after - 1]
    return left[1] + _share(left[0], right[0], tokens) * (right[1] - left[1])


def tokens_at(curve: Sequence[tuple[int, float]], loss: float) -> float | None:
    """Return the tokens at which `curve` first came down to `loss`; None if it never did, or began there."""
    for left, right in pairwise(curve):
        if right[1] <= loss < left[1]:
            share = (left[1] - loss) / (left[1] - right[1])
            if left[0] == 0:
                return share * right[0]
            return math.exp(math.log(left[0]) + share * (math.log(right[0]) - math.log(left[0])))
    return None


def distance(reference: Reference | None, tokens: int, loss: float) -> dict[str, float]:
    """Return the metric of a validation: by how many nats `loss` is above the reference's, if known."""
    at = loss_at(reference.curve, tokens) if reference else None
    return {} if at is None else {"val/loss_behind": loss - at}


def tolerance_at(reference: Reference, tokens: float) -> float | None:
    """Return the nats by which a run on track may differ at `tokens`; None where the curve says nothing."""
    curve = reference.curve
    here = loss_at(curve, tokens)
    if here is None:
        return None
    last = curve[-1][0]
    before = loss_at(curve, max(tokens * (1 - _SLACK), curve[0][0]))
    later = loss_at(curve, min(tokens * (1 + _SLACK), last))
    steepness = max(abs(here - each) for each in (before, later) if each is not None)
    return max(reference.tolerance, steepness)


def standing(reference: Reference, losses: Sequence[tuple[int, float]]) -> Standing:
    """Return where a run with these validations, (tokens, loss) in order, stands at the last of them.

    A run past the end of the curve is compared with the curve's end. `losses` must not be empty.
    """
    tokens, loss = losses[-1]
    curve = reference.curve
    at = min(tokens, curve[-1][0]) if curve else tokens
    expected, tolerance = loss_at(curve, at), tolerance_at(reference, at)
    behind = None if expected is None else loss - expected
    reached = tokens_at(curve, loss)
    return Standing(
        verdict=_verdict(losses, behind, tolerance),
        tokens=tokens,
        loss=loss,
        reference_loss=expected,
        behind=behind,
        tolerance=tolerance,
        tokens_behind=None if reached is None else tokens - reached,
    )


def _verdict(losses: Sequence[tuple[int, float]], behind: float | None, tolerance: float | None) -> str:
    loss = losses[-1][1]
    lowest = min((each for _, each in losses if math.isfinite(each)), default=math.inf)
    if not math.isfinite(loss) or loss > lowest + _DIVERGED_NATS:
        return DIVERGED
    if behind is None or tolerance is None:
        return UNKNOWN
    if abs(behind) <= tolerance:
        return ON_TRACK
    return BEHIND if behind > 0 else AHEAD


def _share(left: float, right: float, tokens: float) -> float:
    """Return how far `tokens` lies between two others, by logarithm; plainly, if the first is none."""
    if left == 0:
        return tokens / right
    return math.log(tokens / left) / math.log(right / left)
