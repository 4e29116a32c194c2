"""Where a run stands: its state, its key figures, and where its time went."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pretrain.watching.run_log import RunLog

# A run that logs nothing for this long, and for 20 of its usual intervals, shows no sign of life.
_SILENCE_SECONDS = 180.0
_SILENCE_INTERVALS = 20
_REQUEUE = 75  # conf.exits.Exit.REQUEUE


@dataclass(frozen=True)
class Summary:
    """A run's standing; figures that are not known are None."""

    state: str
    detail: str
    step: int | None
    total_steps: int | None
    attempts: int  # 0 until the record has been read
    wall_seconds: float
    last_time: float | None
    figures: dict[str, float | None]
    seconds: dict[str, float]
    last_alert: str


def summary(run: RunLog, now: float) -> Summary:
    """Return where `run` stands at unix time `now`; of a sketched one, that it is being read."""
    if run.sketched:
        return Summary("reading", "", None, None, 0, 0.0, None, {}, {}, "")
    state, detail = _state(run, now)
    wall_seconds = 0.0 if math.isnan(run.first_time) else run.last_time - run.first_time
    seconds = wall_time_split(run, wall_seconds)
    figures = {name: _last(run, name) for name in run.columns}
    if figures.get("time/goodput") is None and wall_seconds > 0:
        figures["time/goodput"] = seconds["productive"] / wall_seconds
    alert = run.alerts[-1] if run.alerts else {}
    return Summary(
        state=state,
        detail=detail,
        step=run.steps[-1] if run.steps else None,
        total_steps=_total_steps(settings(run)),
        attempts=max(len({event.get("attempt") for event in run.events if event["event"] == "started"}), 1),
        wall_seconds=wall_seconds,
        last_time=None if math.isnan(run.last_time) else run.last_time,
        figures=figures,
        seconds=seconds,
        last_alert=f"{alert['alert']}: {alert.get('text', '')}" if alert else "",
    )


def settings(run: RunLog) -> dict[str, Any]:
    """Return the settings that the newest attempt started with, as `{dotted name: value}`."""
    started = [event for event in run.events if event["event"] == "started"]
    return dict(_flat(started[-1].get("settings", {}))) if started else {}


def wall_time_split(run: RunLog, wall_seconds: float) -> dict[str, float]:
    """Return the seconds that went into steps that were kept, start-up, checkpoints, evaluation, and nothing.

    Lost is the rest of the wall time: steps done again after a resume, and gaps between attempts.
    """
    step_seconds = np.array(run.column("perf/step_s"))
    timed = np.isfinite(step_seconds)
    steps_each = np.diff(np.array(run.steps)[timed], prepend=0)
    spent = {
        "productive": float(steps_each @ step_seconds[timed]),
        "startup": _total(run, "time/startup_s"),
        "checkpoint": _total(run, "time/checkpoint_save_s"),
        "evaluation": _total(run, "time/eval_s"),
    }
    known = sum(spent.values())
    # The clock starts with the record, a little after the process: the parts may exceed the whole.
    scale = min(1.0, wall_seconds / known) if known > 0 else 1.0
    spent = {name: value * scale for name, value in spent.items()}
    return {**spent, "lost": max(0.0, wall_seconds - sum(spent.values()))}


def as_json(found: Summary) -> dict[str, Any]:
    """Return the summary as JSON data."""
    return asdict(found)


def _state(run: RunLog, now: float) -> tuple[str, str]:
    """Return one of finished, stopped, failed, running, silent, starting; and a few words on it."""
    ends = [event for event in run.events if "exit_code" in event]
    if ends and ends[-1]["time"] >= run.last_time:
        return _end(run, int(ends[-1]["exit_code"]))
    if math.isnan(run.last_time):
        return "starting", "nothing logged yet"
    age = now - run.last_time
    if age > _patience_seconds(run):
        return "silent", f"no sign of life for {_long(age)}"
    return ("running", "") if run.steps else ("starting", "no step reported yet")


def _long(seconds: float) -> str:
    """Return a time of minutes, hours or days as people say it."""
    for size, name in ((86400.0, "days"), (3600.0, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {name}"
    return f"{seconds / 60:,.0f} min"


def _end(run: RunLog, exit_code: int) -> tuple[str, str]:
    """Return how the last attempt ended, as `_state` does."""
    total, step = _total_steps(settings(run)), run.steps[-1] if run.steps else 0
    if exit_code == _REQUEUE:
        return "stopped", "waits to be started again"
    if exit_code:
        return "failed", f"exit code {exit_code}"
    return (
        ("stopped", f"paused at step {step:,} of {total:,}") if total and step < total else ("finished", "")
    )


def _patience_seconds(run: RunLog) -> float:
    times = list(run.column("time"))[-50:]
    intervals = [later - earlier for earlier, later in pairwise(times)]
    return max(_SILENCE_SECONDS, _SILENCE_INTERVALS * statistics.median(intervals or [0.0]))


def _last(run: RunLog, name: str) -> float | None:
    return next((value for value in reversed(run.columns[name]) if math.isfinite(value)), None)


def _total(run: RunLog, name: str) -> float:
    return float(np.nansum(np.array(run.column(name))))  # infinite values are gaps already


def _total_steps(flat: Mapping[str, Any]) -> int | None:
    """Return the setting called `steps`, wherever it is; the least deep one if there are several."""
    found = sorted(
        (name.count("."), value) for name, value in flat.items() if name.split(".")[-1] == "steps" and value
    )
    return int(found[0][1]) if found else None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs
