"""What metrics.jsonl holds: the record of a run, one JSON object per line, over all its attempts.

A line is a row (`attempt`, `time`, `step`, `tokens` and metrics), an event (`event`, …) or an alert
(`alert`, …). Lines are only ever added, each by one write call, so a SIGKILL loses nothing that was
logged. An attempt that resumes from an earlier step logs some steps again: for a reader the later
attempt's rows replace all rows from its first step on.
"""

import json
import math
import os
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf.exits import ConfigError, CorruptError, DatasetError

FILE_NAME = "metrics.jsonl"
_NOT_FINITE = ("nan", "inf", "-inf")


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


@dataclass
class RunLog:
    """A run as its metrics.jsonl tells it; `update` reads what was added since.

    Columns are as long as `steps`, ascending; NaN where a metric was not logged or not finite.
    """

    run_dir: Path
    steps: "array[int]" = field(default_factory=lambda: array("q"))
    columns: "dict[str, array[float]]" = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    attempt: int = 0
    first_time: float = math.nan
    last_time: float = math.nan
    _offset: int = 0
    _alike: "dict[str, array[float]]" = field(default_factory=dict)  # the columns of the newest row

    @property
    def bytes_read(self) -> int:
        """Return how much of the file has been read: what tells one state of the run from another."""
        return self._offset

    def update(self) -> bool:
        """Read the lines added since the last call; return whether there were any.

        Raises DatasetError if the file is missing, CorruptError for a line, other than an unfinished
        last one, that is not a JSON object.
        """
        path = self.run_dir / FILE_NAME
        try:
            with path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError as error:
            raise DatasetError(f"{path} does not exist: the run has logged nothing yet") from error
        whole, newline, _ = data.rpartition(b"\n")  # the rest is a line still being written
        for line in whole.split(b"\n") if newline else ():
            try:
                self._add(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                text = line[:60].decode(errors="replace")
                raise CorruptError(f"{path}: the line '{text}' is not one of this format") from error
            self._offset += len(line) + 1
        return bool(newline)

    def column(self, name: str) -> "array[float]":
        """Return the values of a metric, one per step; all NaN if it was never logged."""
        values = self.columns.get(name, array("d"))
        return values + array("d", [math.nan]) * (len(self.steps) - len(values))

    def rows(self) -> Iterator[dict[str, float]]:
        """Yield one mapping per step, holding the values that were logged and are finite."""
        columns = {name: self.column(name) for name in self.columns}
        for index, step in enumerate(self.steps):
            row = {name: values[index] for name, values in columns.items()}
            yield {"step": step, **{name: value for name, value in row.items() if not math.isnan(value)}}

    def _add(self, line: dict[str, Any]) -> None:
        moment = float(line["time"])
        self.first_time = moment if math.isnan(self.first_time) else self.first_time
        self.last_time = moment
        if "event" in line:
            self.events.append(line)
        elif "alert" in line:
            self.alerts.append(line)
        else:
            self._add_row(line)

    def _add_row(self, row: dict[str, Any]) -> None:
        step, attempt = int(row["step"]), int(row["attempt"])
        if self.steps and (attempt != self.attempt or step < self.steps[-1]):
            self._forget_from(step)
        self.attempt = attempt
        if not self.steps or step > self.steps[-1]:
            self.steps.append(step)
            if self._add_alike(row):
                return
        for name, value in row.items():
            if name != "step" and _is_number(value):
                values = self.columns.get(name)
                if values is None:
                    values = self.columns[name] = array("d")
                values.extend([math.nan] * (len(self.steps) - len(values)))
                values[-1] = value if isinstance(value, (int, float)) else math.nan
        self._alike = {name: self.columns[name] for name in row if name in self.columns}

    def _add_alike(self, row: dict[str, Any]) -> bool:
        """Add a row that names what the row before it named, as most do: in a fifth of the time.

        Its columns are as long as the steps were, for the row before it was added to each of them.
        """
        alike = self._alike
        if len(row) != len(alike) + 1 or not all(name in row for name in alike):
            return False
        before = len(self.steps) - 1
        try:
            for name, values in alike.items():
                values.append(row[name])
        except TypeError:  # a text, such as "nan"
            for values in alike.values():
                del values[before:]
            return False
        return True

    def _forget_from(self, step: int) -> None:
        """Drop the rows from `step` on: the run went back there and does them again."""
        keep = bisect_left(self.steps, step)
        del self.steps[keep:]
        for values in self.columns.values():
            del values[keep:]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or value in _NOT_FINITE


def read_run(run_dir: Path) -> RunLog:
    """Return everything a run has logged so far.

    Raises ConfigError if the directory does not exist, DatasetError if it holds no metrics yet.
    """
    if not run_dir.is_dir():
        raise ConfigError(f"run directory {run_dir} does not exist")
    run = RunLog(run_dir)
    run.update()
    return run


def last_values(run_dir: Path, metric: str, count: int) -> list[float]:
    """Return up to `count` of the newest values of `metric`, oldest first; none if there is no record.

    Reads only the end of the file, and skips what it cannot read.
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
            found.append(float(json.loads(line)[metric]))
        except (ValueError, KeyError, TypeError):
            continue
    return found[-count:]
