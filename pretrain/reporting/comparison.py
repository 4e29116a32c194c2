"""Several runs in one table, the best first, with the settings that tell them apart."""

import math
import time
from collections.abc import Sequence
from typing import Any

from pretrain.reporting.chart import short
from pretrain.reporting.document import Curve, Diagram, Document, Section, Table
from pretrain.watching.run_log import RunLog
from pretrain.watching.run_summary import settings, summary

# They differ from run to run and say nothing of it.
_NO_SETTING = ("run_dir", "run_id", "ranks", "slurm_job_id", "tracking.name", "cluster.slurm")
_NONE = "–"


def comparison(runs: Sequence[RunLog], title: str) -> Document:
    """Return the report that compares `runs`: what a sweep ends in."""
    ordered = sorted(runs, key=_rank)
    given = {run.run_dir: settings(run) for run in runs}
    names = differing([given[run.run_dir] for run in ordered])
    rows = [_row(run, [given[run.run_dir].get(name) for name in names]) for run in ordered]
    head = [
        "run",
        *names,
        "state",
        "step",
        "tokens",
        "validation loss",
        "lowest",
        "training loss",
        "tokens/s",
    ]
    measured = [run for run in ordered if math.isfinite(_rank(run))]
    verdict = "Nothing validated yet"
    lead = f"{len(runs)} runs."
    if measured:
        best = measured[0]
        settled = ", ".join(f"{name}={_text(given[best.run_dir].get(name))}" for name in names)
        verdict = f"Best: {best.run_dir.name}"
        lead = (
            f"Validation loss {_rank(best):.4f}"
            + (f" with {settled}" if settled else "")
            + f"; {len(runs)} runs."
        )
    curves = [
        Curve(run.run_dir.name, f"run-{number % 8}", _losses(run)) for number, run in enumerate(ordered)
    ]
    sections = [
        Section("Runs, the best first", [], Table(head, rows)),
        Section("Validation loss", [], None, Diagram("Validation loss over tokens", curves)),
    ]
    tiles = [("Runs", str(len(runs)), "")]
    if measured:
        tiles.append(("Lowest last validation loss", f"{_rank(measured[0]):.4f}", "nats per token"))
    return Document(title, verdict, "good" if measured else "plain", lead, tiles, sections)


def differing(given: Sequence[dict[str, Any]]) -> list[str]:
    """Return the settings, by dotted name, in which the runs are not all alike."""
    names = sorted({name for each in given for name in each if not name.startswith(_NO_SETTING)})
    return [name for name in names if len({str(each.get(name)) for each in given}) > 1]


def _row(run: RunLog, values: list[Any]) -> list[str]:
    now = summary(run, time.time())
    losses = [loss for _, loss in _losses(run)]
    figures = now.figures
    return [
        run.run_dir.name,
        *(_text(value) for value in values),
        now.state,
        f"{now.step or 0:,}",
        short(figures.get("tokens") or 0),
        f"{losses[-1]:.4f}" if losses else _NONE,
        f"{min(losses):.4f}" if losses else _NONE,
        _number(figures.get("train/loss"), "{:.4f}"),
        _number(figures.get("perf/tokens_per_s"), "{:,.0f}"),
    ]


def _rank(run: RunLog) -> float:
    """Return the last validation loss; infinity for a run that has none."""
    losses = _losses(run)
    return losses[-1][1] if losses else math.inf


def _losses(run: RunLog) -> list[tuple[float, float]]:
    pairs = zip(run.column("tokens"), run.column("val/loss"), strict=True)
    return [pair for pair in pairs if math.isfinite(pair[0]) and math.isfinite(pair[1])]


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else form.format(value)


def _text(value: Any) -> str:
    return _NONE if value is None else f"{value:g}" if isinstance(value, float) else f"{value}"
