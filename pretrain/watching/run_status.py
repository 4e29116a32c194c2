"""What a terminal shows of many runs: one line each."""

import time
from collections.abc import Sequence

from pretrain.watching.console import hours_minutes_seconds, printable
from pretrain.watching.run_log import RunLog
from pretrain.watching.run_summary import Summary, summary

_HEAD = (
    "run",
    "state",
    "step",
    "tokens",
    "loss",
    "val loss",
    "behind",
    "tokens/s",
    "mfu",
    "goodput",
    "eta",
    "last alert",
)
_LONGEST_NAME = 40
_LONGEST_ALERT = 48
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def status_lines(runs: Sequence[RunLog]) -> list[str]:
    """Return a heading and one line per run, in columns."""
    now = time.time()
    table = [_HEAD, *(_cells(run.run_dir.name, summary(run, now)) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _cells(name: str, found: Summary) -> tuple[str, ...]:
    figure = found.figures.get
    eta = figure("time/eta_h")
    return (
        _cut(printable(name), _LONGEST_NAME),
        found.state,
        "–" if found.step is None else f"{found.step}/{found.total_steps or '?'}",
        _short(figure("tokens")),
        _formatted(figure("train/loss"), "{:.3f}"),
        _formatted(figure("val/loss"), "{:.3f}"),
        _formatted(figure("val/loss_behind"), "{:+.3f}"),
        _short(figure("perf/tokens_per_s")),
        _formatted(figure("perf/mfu"), "{:.1%}"),
        _formatted(figure("time/goodput"), "{:.1%}"),
        "–" if eta is None or found.state == "finished" else hours_minutes_seconds(eta * 3600),
        _cut(printable(found.last_alert), _LONGEST_ALERT),
    )


def _formatted(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _short(value: float | None) -> str:
    """Return 2.5B for 2.5e9."""
    if value is None:
        return "–"
    unit, sign = next(((unit, sign) for unit, sign in _UNITS if value >= unit), (1.0, ""))
    return f"{value / unit:.3g}{sign}"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
