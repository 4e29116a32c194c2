"""How losses over tokens are drawn: one SVG, without a script, that takes its colours from the page."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from pretrain.reporting.document import Curve, Diagram

_WIDTH, _HEIGHT = 960, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 150, 16, 40
_MOST_POINTS = 400  # of a curve: about one for every two pixels
_LINE_HEIGHT = 15  # of a label


@dataclass(frozen=True)
class _Axes:
    """Where tokens, on a logarithmic scale, and losses lie in the drawing."""

    low: float
    high: float
    bottom: float
    top: float

    def x(self, tokens: float) -> float:
        share = math.log(max(tokens, self.low) / self.low) / math.log(self.high / self.low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, loss: float) -> float:
        return _TOP + (self.top - loss) / (self.top - self.bottom) * (_HEIGHT - _TOP - _BOTTOM)


def svg(diagram: Diagram) -> str:
    """Return the diagram; tokens on a logarithmic axis, as losses are nearly straight on it."""
    curves = [each for each in map(_thinned, diagram.curves) if each.points]
    points = [point for curve in curves for point in curve.points]
    if not points:
        return ""
    axes = _Axes(*_token_range(points), *_loss_range(points, [loss for _, loss in diagram.levels]))
    name = escape(diagram.title, quote=True)
    labels = [(axes.y(loss), "level", level) for level, loss in diagram.levels]
    labels += [(axes.y(curve.points[-1][1]), curve.tone, curve.name) for curve in curves]
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return "".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">',
            *_grid(axes),
            *(
                f'<path class="level" d="M{_LEFT} {axes.y(loss):.1f}H{_WIDTH - _RIGHT}"/>'
                for _, loss in diagram.levels
            ),
            # An inner drawing, which cuts off what a curve does above the top.
            f'<svg x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}" '
            f'viewBox="{_LEFT} {_TOP} {width} {height}">',
            *(_line(axes, curve) for curve in curves),
            "</svg>",
            *(
                f'<text class="label {tone}" x="{_WIDTH - _RIGHT + 9}" y="{at + 4:.1f}">{escape(text)}</text>'
                for at, tone, text in _apart(labels)
            ),
            "</svg>",
        ]
    )


def _grid(axes: _Axes) -> Iterator[str]:
    for loss in _nice(axes.bottom, axes.top):
        at = axes.y(loss)
        yield f'<path class="grid" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>'
        yield f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{loss:g}</text>'
    for tokens in _decades(axes.low, axes.high):
        at = axes.x(tokens)
        yield f'<path class="grid" d="M{at:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
        yield f'<text class="tick" x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
        yield f"{short(tokens)}</text>"
    yield f'<text class="tick" x="{_LEFT}" y="{_HEIGHT - 4}">tokens</text>'


def _line(axes: _Axes, curve: Curve) -> str:
    path = " ".join(f"{axes.x(tokens):.1f},{axes.y(loss):.1f}" for tokens, loss in curve.points)
    return f'<polyline class="curve {curve.tone}" points="{path}"/>'


def short(count: float) -> str:
    """Return a number of tokens as people say it: 524k, 10.3B."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def _thinned(curve: Curve) -> Curve:
    """Return the curve with few enough points, the mean of each stretch, the last one as it is."""
    points = [point for point in curve.points if point[0] > 0]
    size = math.ceil(len(points) / _MOST_POINTS)
    if size < 2:
        return Curve(curve.name, curve.tone, points)
    kept = []
    for first in range(0, len(points), size):
        part = points[first : first + size]
        kept.append((part[-1][0], math.fsum(loss for _, loss in part) / len(part)))
    return Curve(curve.name, curve.tone, [*kept[:-1], points[-1]])


def _token_range(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    low, high = min(point[0] for point in points), max(point[0] for point in points)
    return (low, high) if high > low else (low / 2, high * 2)


def _loss_range(points: Sequence[tuple[float, float]], levels: Sequence[float]) -> tuple[float, float]:
    """Return the axis: down to the lowest, up to what most points lie below, so that the end can be read."""
    losses = sorted([loss for _, loss in points if math.isfinite(loss)])
    top = losses[min(len(losses) - 1, int(0.97 * len(losses)))]
    bottom = min([losses[0], *levels])
    margin = max(0.05 * (top - bottom), 0.02)
    return bottom - margin, top + margin


def _nice(bottom: float, top: float) -> list[float]:
    """Return some six round numbers between two others."""
    rough = (top - bottom) / 6
    size = 10 ** math.floor(math.log10(rough))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough)
    first = math.ceil(bottom / step)
    return [round(number * step, 10) for number in range(first, math.floor(top / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten in a range; the powers alone where those are many."""
    exponents = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    factors = (1,) if len(exponents) > 4 else (1, 2, 5)
    ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _apart(labels: list[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Return labels inside the drawing, moved down as far as it takes for none to lie on another."""
    placed: list[tuple[float, str, str]] = []
    for at, tone, name in sorted(labels):
        lowest = placed[-1][0] + _LINE_HEIGHT if placed else _TOP
        placed.append((max(at, lowest), tone, name))
    return placed
