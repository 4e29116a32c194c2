"""What the dashboard page holds: one HTML text with its data, its scripts and nothing from outside."""

import contextlib
import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from conf.exits import UserError
from pretrain.watching import reference
from pretrain.watching.panels import SECTIONS
from pretrain.watching.run_log import RunLog
from pretrain.watching.run_summary import as_json, settings, summary

_FILES = Path(__file__).parent / "page"
_SCRIPTS = ("format.js", "series.js", "cards.js", "figures.js", "details.js", "page.js")
# A diagram is about 400 pixels wide; more points than this would only cost time and bytes.
_MOST_POINTS, _MOST_POINTS_OF_MANY = 1000, 500
_MANY = 4  # runs on a page
_MOST_EVENTS = 400
_DIGITS = 6
# Below this share of present values a metric is sent with its positions instead of gaps.
_DENSE = 0.5


class Curves:
    """The curves of runs as JSON, made once for each state of a run: they are most of the work."""

    def __init__(self):
        self._made: dict[Path, tuple[tuple[int, ...], str]] = {}

    def text(self, run: RunLog, points: int) -> str:
        """Return the axes, curves and attempts of a run as a JSON object."""
        state = (run.bytes_read, points)
        if self._made.get(run.run_dir, (None,))[0] != state:
            axes, curves = _curves(run, points)
            made = _json({"axes": axes, "curves": curves, "attempts": _attempts(run)})
            self._made[run.run_dir] = (state, made)
        return self._made[run.run_dir][1]


def page(runs: Sequence[RunLog], *, live: bool, reading: int = 0, curves: Curves | None = None) -> str:
    """Return the page for `runs`; a live one asks its server for news every few seconds.

    `reading` is how many of the runs are still being read. `curves` remembers from page to page.
    """
    data = data_text(runs, live=live, reading=reading, curves=curves)
    parts = {
        "STYLE": (_FILES / "page.css").read_text(),
        "PLOTLY": get_plotlyjs(),
        "SCRIPT": "\n".join((_FILES / name).read_text() for name in _SCRIPTS),
        "DATA": data.replace("<", "\\u003c"),  # no name can end the script element
        "CONNECT": "'self'" if live else "'none'",
    }
    template = (_FILES / "template.html").read_text()
    return re.sub(r"{{(\w+)}}", lambda place: parts[place[1]], template)  # once: data may hold braces too


def data_text(runs: Sequence[RunLog], *, live: bool, reading: int = 0, curves: Curves | None = None) -> str:
    """Return the page's data as JSON: the table of panels, and per run its standing and its curves."""
    now = time.time()
    curves = curves or Curves()
    points = _MOST_POINTS if len(runs) < _MANY else _MOST_POINTS_OF_MANY
    data = {
        "live": live,
        "reading": reading,
        "made_at": now,
        "sections": [asdict(section) for section in SECTIONS],
        "references": _references(runs),
    }
    named = zip(runs, _unique_names(runs), strict=True)
    texts = [_one_object(_json(_standing(run, name, now)), curves.text(run, points)) for run, name in named]
    return _one_object(_json(data), f'{{"runs":[{",".join(texts)}]}}')


def _references(runs: Sequence[RunLog]) -> dict[str, Any]:
    """Return the published curves that the runs are measured against, by name."""
    found = {}
    for name in {settings(run).get("reference") for run in runs} - {None}:
        with contextlib.suppress(UserError):  # a run of another version, whose reference is not known here
            published = reference.named(str(name))
            tokens, losses = zip(*published.curve, strict=True) if published.curve else ((), ())
            found[name] = {"title": published.title, "tokens": tokens, "loss": losses}
    return found


def _standing(run: RunLog, name: str, now: float) -> dict[str, Any]:
    return {
        "name": name,
        "summary": as_json(summary(run, now)),
        "settings": settings(run),
        "reference": settings(run).get("reference"),
        "events": [_finite(event) for event in run.events if event["event"] != "started"][-_MOST_EVENTS:],
        "alerts": [_finite(alert) for alert in run.alerts][-_MOST_EVENTS:],
    }


def _json(data: Any) -> str:
    return json.dumps(data, allow_nan=False, separators=(",", ":"))


def _one_object(first: str, second: str) -> str:
    """Return the JSON object that has all that two others have, neither of them empty."""
    return f"{first[:-1]},{second[1:]}"


def _curves(run: RunLog, points: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the x axes and, per metric, its values; long runs as mean, lowest and highest per point."""
    count = len(run.steps)
    if count == 0:
        return {"step": [], "tokens": [], "hours": []}, {}
    starts = np.unique(np.linspace(0, count, min(count, points), endpoint=False).astype(np.int64))
    ends = np.append(starts[1:], count) - 1
    hours = (np.array(run.column("time")) - run.first_time) / 3600
    axes = {
        "step": np.array(run.steps)[ends].tolist(),
        "tokens": [None if math.isnan(x) else int(x) for x in np.array(run.column("tokens"))[ends]],
        "hours": _rounded(hours[ends]),
    }
    names = [name for name in run.columns if name not in {"tokens", "time", "attempt"}]
    return axes, {name: _curve(np.array(run.column(name)), starts) for name in names}


def _curve(values: np.ndarray, starts: np.ndarray) -> dict[str, Any]:
    present = np.isfinite(values)
    counts = np.add.reduceat(present, starts, dtype=np.int64)
    sums = np.add.reduceat(np.where(present, values, 0.0), starts)
    means = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
    at = np.flatnonzero(counts)
    curve: dict[str, Any] = {}
    if len(at) < _DENSE * len(starts):
        curve["at"] = at.tolist()
        means = means[at]
    curve["y"] = _rounded(means)
    if counts.max(initial=0) > 1:
        low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
        kept = at if "at" in curve else slice(None)
        curve["low"], curve["high"] = _rounded(low[kept]), _rounded(high[kept])
    return curve


def _attempts(run: RunLog) -> list[dict[str, Any]]:
    """Return where each attempt that left rows begins, the first one included."""
    numbers = run.column("attempt")
    found = np.flatnonzero(np.diff(np.array(numbers), prepend=math.nan)).tolist()  # nan: the first is one too
    times, tokens = run.column("time"), run.column("tokens")
    return [
        {
            "number": int(numbers[i]),
            "step": run.steps[i],
            "tokens": None if math.isnan(tokens[i]) else tokens[i],
            "hours": round((times[i] - run.first_time) / 3600, _DIGITS),
        }
        for i in found
    ]


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()]


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in line.items()
    }


def _unique_names(runs: Sequence[RunLog]) -> list[str]:
    """Return the directories' names, with as many parents as it takes to tell them apart."""
    paths = [run.run_dir.resolve() for run in runs]
    for depth in range(1, 6):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
