"""What metrics.jsonl is while it is written: the record of a run, one JSON object per line.

A line is a row (`attempt`, `time`, `step`, `tokens` and metrics), an event (`event`, …) or an alert
(`alert`, …). Lines are only ever added, each by one write call, so a SIGKILL loses nothing that was
logged. `run_log` reads it.
"""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

FILE_NAME = "metrics.jsonl"


class MetricsLog:
    """The open end of a run's metrics.jsonl. Writing never raises: a full disk costs rows, not the run."""

    def __init__(self, run_dir: Path, *, attempt: int, say: Callable[[str], None]):
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / FILE_NAME
        self._attempt = attempt
        self._say = say
        self._lost_lines = 0
        self._lock = threading.Lock()  # a thread that saves or waits may have something to say too
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        _mend_torn_end(self._file)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one line, stamped with the attempt and the time."""
        stamped = {"attempt": self._attempt, "time": round(time.time(), 3), **line}
        data = (json.dumps(_plain(stamped), allow_nan=False) + "\n").encode()
        with self._lock:
            self._append(data)

    def _append(self, data: bytes) -> None:
        try:
            size = os.fstat(self._file).st_size
            if os.write(self._file, data) < len(data):  # the disk filled up in the middle of the line
                os.ftruncate(self._file, size)
                raise OSError("no space left for the whole line")
        except OSError as error:
            self._lost_lines += 1
            if self._lost_lines == 1:
                self._say(f"cannot write {self._path} ({error}); training goes on, rows are being lost")

    def close(self) -> None:
        """Close the file and report lines that could not be written."""
        if self._lost_lines:
            self._say(f"{self._path}: {self._lost_lines} lines could not be written")
        os.close(self._file)


def _mend_torn_end(file: int) -> None:
    """Complete or cut a last line without its newline, which a machine that died may leave."""
    size = os.fstat(file).st_size
    start = max(0, size - 2**20)  # far longer than any line
    tail = os.pread(file, size - start, start)
    if not tail or tail.endswith(b"\n"):
        return
    last = tail[tail.rfind(b"\n") + 1 :]
    try:
        json.loads(last)
        os.write(file, b"\n")
    except ValueError:
        os.ftruncate(file, size - len(last))


def _plain(value: Any) -> Any:
    """Return `value` as JSON data; NaN and infinities, which JSON lacks, as "nan", "inf", "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    try:
        number = float(value)  # also NumPy's and torch's scalars
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(number)


def last_values(
    run_dir: Path, metric: str, count: int, *, of_attempts: Container[int] | None = None
) -> list[float]:
    """Return up to `count` of the newest values of `metric`, oldest first; none if there is no record.

    Of some attempts only, if they are named. Reads only the end of the file, and skips what it cannot
    read.
    """
    try:
        with (run_dir / FILE_NAME).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - count * 2048))  # a row is about 600 bytes
            lines = file.read().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            row = json.loads(line)
            if of_attempts is None or row["attempt"] in of_attempts:
                found.append(float(row[metric]))
        except (ValueError, KeyError, TypeError):
            continue
    return found[-count:]
