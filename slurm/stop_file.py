"""How the supervisor asks the trainer to stop: a file, which needs no message to any rank or controller."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

NAME = "STOP"
_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)


def is_users(run_dir: Path) -> bool:
    """Say whether a file STOP is there that no supervisor has left: the next one removes a supervisor's."""
    path = run_dir / NAME
    return path.exists() and not path.read_text(errors="replace").startswith("slurm ")


class StopFile:
    """The wish to stop, as a file in the run directory, and whose it is."""

    def __init__(
        self,
        run_dir: Path,
        say: Callable[[str], None],
        start: str,
        is_replaced: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the run directory, who is told when a signal has become the file, and when it must not.

        The file names the `start`: its own trainer, which may still be starting, leaves it there. SLURM
        ends an earlier start on a node that was cut off when it is back; its signal is not meant for the
        start that has replaced it.
        """
        self._run_dir, self._path = run_dir, run_dir / NAME
        self._say = say
        self._start = start
        self._is_replaced = is_replaced

    def is_users(self) -> bool:
        """Say whether somebody other than a supervisor has put it there."""
        return is_users(self._run_dir)

    def remove_leftover(self) -> None:
        """Remove what an earlier start has left there; never the user's."""
        if self._path.exists() and not self.is_users():
            self._path.unlink(missing_ok=True)

    def remove_own(self) -> None:
        """Remove it if this start has put it there."""
        if self._path.exists() and self._path.read_text().split()[-1:] == [self._start]:
            self.remove_leftover()

    def listen(self) -> None:
        """From now on, turn signals into the file."""
        for number in _SIGNALS:
            signal.signal(number, self._received)

    def ignore(self) -> None:
        """From now on, let signals pass: SLURM ends this process when it is done with it."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _received(self, number: int, _frame: FrameType | None) -> None:
        if self._is_replaced():
            return
        if not self._path.exists():
            self._path.write_text(f"slurm {signal.Signals(number).name} {self._start}\n")
        self._say(f"{signal.Signals(number).name}: asked the trainer to save and leave")
