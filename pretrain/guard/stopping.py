"""When a run must stop before its last step, and how the wish is kept until the ranks have agreed on it.

A signal only sets a flag: saving inside a handler would interrupt a collective. A Ctrl-C after it, a second
or more later, ends the process at once; a scheduler's second SIGTERM does not, for the save may still be
complete before its SIGKILL. A time limit asks early enough for a save to be complete.
"""

import os
import signal
import time
from dataclasses import dataclass
from enum import IntEnum
from math import inf
from pathlib import Path
from types import FrameType

from pretrain.guard.heartbeat import Page
from pretrain.guard.watchdog import STOP_SIGNALS, is_impatient

STOP_FILE = "STOP"
# Of the longest save so far: the last one may meet a slower disk.
_SAVE_TIMES = 2.0
# The file may lie on a distant file system, and a step may take milliseconds.
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class StopConfig:
    """When to stop without being asked; the end of a SLURM job's time is always heeded."""

    after_minutes: float | None = None  # of this attempt
    margin_seconds: float = 60.0  # between the end of the last save and the end of the time

    def __post_init__(self) -> None:
        if self.after_minutes is not None and not self.after_minutes > 0:
            raise ValueError(f"stop.after_minutes {self.after_minutes} must be above 0, or null")
        if not self.margin_seconds >= 0:
            raise ValueError(f"stop.margin_seconds {self.margin_seconds} must be 0 or more")


class Wish(IntEnum):
    """What a rank asks of all ranks after a step; the largest wins."""

    NOTHING = 0
    SAVE = 1  # the clock says so
    STOP = 2  # save and leave


class StopRequest:
    """Listens for SIGUSR1, SIGTERM, SIGINT, the file STOP in the run directory, and the clock."""

    def __init__(
        self, run_dir: Path, *, page: Page | None = None, time_limit: float = inf, margin_seconds: float = 0.0
    ) -> None:
        """Take the page on which the watchdog asks, and the `time_limit`, on the monotonic clock."""
        self._file = run_dir / STOP_FILE
        self._page = page or Page()
        self._time_limit = time_limit
        self._margin_seconds = margin_seconds
        self._looked_at = -inf
        self._received_at = inf
        self.reason = ""
        for number in STOP_SIGNALS:
            signal.signal(number, self._received)

    def asked(self, save_seconds: float = 0.0) -> bool:
        """Say whether this process should stop, if a save takes `save_seconds`; `reason` tells why."""
        if not self.reason:
            self.reason = self._reason(time.monotonic(), save_seconds)
        return bool(self.reason)

    def is_late(self, seconds: float) -> bool:
        """Say whether the time limit comes within so many seconds."""
        return time.monotonic() + seconds >= self._time_limit

    def _reason(self, now: float, save_seconds: float) -> str:
        if number := self._page.asked:
            return signal.Signals(number).name
        if now + _SAVE_TIMES * save_seconds + self._margin_seconds >= self._time_limit:
            return "the time limit"
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            if self._file.exists():
                return f"the file {STOP_FILE}"
        return ""

    def _received(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if is_impatient(number, now - self._received_at):
            os._exit(128 + number)
        self._received_at = min(self._received_at, now)
        self._page.ask(number)


def time_limit(config: StopConfig, *, began_at: float, ends_at: float | None) -> float:
    """Return when the time is over, on the monotonic clock, which nobody sets; infinity for never.

    The attempt's process began at `began_at` and its job ends at `ends_at`, both Unix times.
    """
    ends = [began_at + 60 * config.after_minutes] if config.after_minutes is not None else []
    ends += [ends_at] if ends_at is not None else []
    return time.monotonic() + min(ends) - time.time() if ends else inf


def clear(run_dir: Path) -> bool:
    """Remove the file STOP that stopped the attempt before; say whether there was one.

    One in which a supervisor has named this very start stays: its signal came while the ranks began.
    """
    path = run_dir / STOP_FILE
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return False
    if text.startswith("slurm ") and text.split()[-1] == os.environ.get("GPT2_START"):
        return False
    path.unlink(missing_ok=True)
    return True
