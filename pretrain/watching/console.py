"""How a run speaks to the person in front of it: a moving line on a terminal, plain lines in a log."""

import math
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from typing import TextIO

# (metric, its name in a report, format)
_FIELDS = (
    ("train/loss", "loss", "{:.4f}"),
    ("val/loss", "val_loss", "{:.4f}"),
    ("optim/lr", "lr", "{:.2e}"),
    ("optim/grad_norm", "grad_norm", "{:.3f}"),
    ("perf/tokens_per_s", "tokens/s", "{:,.0f}"),
    ("perf/mfu", "mfu", "{:.1%}"),
    ("perf/data_wait_frac", "data_wait", "{:.1%}"),
    ("mem/peak_active_gib", "mem_gib", "{:.1f}"),
)
_CLEAR_LINE = "\r\x1b[2K"


class Console:
    """The voice of one process; those that are not `primary` stay silent. Safe to use from any thread."""

    def __init__(self, total_steps: int, primary: bool, stream: TextIO | None = None):
        self._total_steps = total_steps
        self._primary = primary
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._line_is_open = False
        self._lock = threading.Lock()

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show where the run stands: `step=… loss=… eta=…`.

        A terminal gets one line that is written over; validation results stay on it. A log gets one
        line per report, with the time, without control characters.
        """
        if not self._primary:
            return
        text = report_text(step, self._total_steps, metrics)
        if not self._terminal:
            self._write(f"{_clock()} {text}\n")
        elif "val/loss" in metrics:
            self._write(f"{_CLEAR_LINE}{self._fitted(text)}\n")
        else:
            self._write(f"{_CLEAR_LINE}{self._fitted(text)}", leave_open=True)

    def say(self, text: str) -> None:
        """Print one line; control characters in it are shown, not obeyed."""
        if not self._primary:
            return
        line = printable(text)
        self._write(f"{_CLEAR_LINE}{line}\n" if self._terminal else f"{_clock()} {line}\n")

    def close(self) -> None:
        """Leave the cursor on a fresh line."""
        if self._line_is_open:
            self._write("\n")

    def _fitted(self, text: str) -> str:
        width = shutil.get_terminal_size().columns - 1  # a full last column would wrap
        return text if len(text) <= width else text[: width - 1] + "…"

    def _write(self, text: str, leave_open: bool = False) -> None:
        with self._lock:
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # the terminal is gone, or its pipe closed: train on, unseen
                return
            self._line_is_open = leave_open


def report_text(step: int, total_steps: int, metrics: Mapping[str, float]) -> str:
    """Return `step=10/100 loss=3.2100 … eta=1:05:00`, naming only what `metrics` holds."""
    parts = [f"step={step}/{total_steps}"]
    parts += [
        f"{label}={form.format(float(metrics[name]))}" for name, label, form in _FIELDS if name in metrics
    ]
    hours = float(metrics.get("time/eta_h", math.nan))
    if math.isfinite(hours):
        parts.append(f"eta={hours_minutes_seconds(hours * 3600)}")
    return " ".join(parts)


def printable(text: str) -> str:
    """Return `text` on one line, with newlines, escapes and other control characters spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def hours_minutes_seconds(seconds: float) -> str:
    """Return 1:05:00 for 3900 seconds."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def _clock() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")
