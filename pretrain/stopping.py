"""Who may ask a run to stop, and how the wish is kept until the ranks have agreed on it.

A signal handler only sets a flag: saving inside one would interrupt a collective. The second signal
ends the process at once.
"""

import os
import signal
from enum import IntEnum
from pathlib import Path
from types import FrameType

STOP_FILE = "STOP"
_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class Wish(IntEnum):
    """What a rank asks of all ranks after a step; the largest wins."""

    NOTHING = 0
    SAVE = 1  # the clock says so
    STOP = 2  # save and leave


class StopRequest:
    """Listens for SIGUSR1, SIGTERM, SIGINT and the file STOP in the run directory."""

    def __init__(self, run_dir: Path) -> None:
        self._file = run_dir / STOP_FILE
        self.reason = ""
        for number in _SIGNALS:
            signal.signal(number, self._received)

    def asked(self) -> bool:
        """Say whether this process has been asked to stop; `reason` tells by what."""
        if not self.reason and self._file.exists():
            self.reason = f"the file {STOP_FILE}"
        return bool(self.reason)

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if self.reason:
            os._exit(128 + number)
        self.reason = signal.Signals(number).name
