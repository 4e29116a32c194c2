"""What a person sees while a command works: one updating line on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

_TERMINAL_SECONDS = 0.2
_LOG_SECONDS = 10.0


class Progress:
    """Counts work done and reports it now and then, on standard error."""

    def __init__(
        self,
        name: str,
        total_bytes: int,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name, self._total = name, total_bytes
        self._stream = stream or sys.stderr
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._started_at = self._reported_at = clock()
        self._bytes = self._tokens = 0

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the start."""
        return max(self._clock() - self._started_at, 1e-9)

    def advance(self, work_bytes: int, tokens: int) -> None:
        """Count finished work; report it if it is time."""
        self._bytes += work_bytes
        self._tokens += tokens
        now = self._clock()
        if now - self._reported_at >= (_TERMINAL_SECONDS if self._terminal else _LOG_SECONDS):
            self._reported_at = now
            self._stream.write(f"\r{self._line()}\x1b[K" if self._terminal else f"{self._log_line()}\n")
            self._stream.flush()

    def finish(self) -> None:
        """Clear the updating line."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _line(self) -> str:
        part = self._bytes / max(self._total, 1)
        megatokens_per_second = self._tokens / 1e6 / self.elapsed_seconds
        return (
            f"{self._name} {part:4.0%}  {self._bytes / 1e6:,.1f} of {self._total / 1e6:,.1f} MB  "
            f"{self._bytes / 1e6 / self.elapsed_seconds:.1f} MB/s  "
            f"{megatokens_per_second:.2f} Mtoken/s  {_clock_time(self._seconds_left())} left"
        )

    def _log_line(self) -> str:
        return (
            f"{self._name} bytes={self._bytes} total_bytes={self._total} tokens={self._tokens} "
            f"mb_per_second={self._bytes / 1e6 / self.elapsed_seconds:.2f} "
            f"tokens_per_second={self._tokens / self.elapsed_seconds:.0f} "
            f"seconds_left={self._seconds_left():.0f}"
        )

    def _seconds_left(self) -> float:
        return max(self._total - self._bytes, 0) * self.elapsed_seconds / max(self._bytes, 1)


def _clock_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
