"""What a run's metrics.jsonl tells a reader: one story, however often the run was interrupted.

An attempt that resumes from an earlier step logs some steps again: the later attempt's rows replace all
rows from its first step on. Long records are read in stretches of rows that name the same metrics.
"""

import json
import math
import multiprocessing
import os
import signal
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from multiprocessing.sharedctypes import Synchronized
from operator import itemgetter, lt
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from conf.exits import ConfigError, CorruptError, DatasetError, UserError
from pretrain.watching.metrics_log import FILE_NAME

_NOT_FINITE = ("nan", "inf", "-inf")
_BYTES_AT_ONCE = 2**18
# Below this a second process costs more than it saves.
_BYTES_FOR_PROCESSES = 2**26

Updated: TypeAlias = "tuple[RunLog, UserError | None]"


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
    bytes_read: int = 0  # of the file: what tells one state of the run from another
    sketched: bool = False  # holds some rows only, until the whole record is read; has no more to say

    def update(self) -> bool:
        """Read the lines added since the last call; return whether there were any.

        Raises DatasetError if the file is missing, CorruptError for a line, other than an unfinished
        last one, that is not a JSON object.
        """
        path, before = self.run_dir / FILE_NAME, self.bytes_read
        try:
            with path.open("rb") as file:
                file.seek(before)
                while lines := file.readlines(_BYTES_AT_ONCE):
                    if not lines[-1].endswith(b"\n"):
                        lines.pop()  # still being written
                    self._add_lines(lines)
        except FileNotFoundError as error:
            raise DatasetError(f"{path} does not exist: the run has logged nothing yet") from error
        return self.bytes_read > before

    def add(self, line: dict[str, Any]) -> None:
        """Add a line. Raises ValueError, TypeError, KeyError or OverflowError for one of no such format."""
        moment = float(line["time"])
        self.first_time = moment if math.isnan(self.first_time) else self.first_time
        self.last_time = moment
        if "event" in line:
            self.events.append(line)
        elif "alert" in line:
            self.alerts.append(line)
        else:
            self._add_row(line)

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

    def _add_lines(self, lines: Sequence[bytes]) -> None:
        unread = iter(lines)
        for _, stretch in groupby(_parsed(lines), key=len):
            rows = list(stretch)
            read = list(islice(unread, len(rows)))
            if self._add_alike(rows):
                self.bytes_read += sum(map(len, read))
            else:
                for line, row in zip(read, rows, strict=True):
                    self._add_line(line, row)

    def _add_line(self, line: bytes, parsed: Any) -> None:
        try:
            self.add(parsed)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            text = line[:60].decode(errors="replace").rstrip("\n")
            path = self.run_dir / FILE_NAME
            raise CorruptError(f"{path}: the line '{text}' is not one of this format") from error
        self.bytes_read += len(line)

    def _add_row(self, row: dict[str, Any]) -> None:
        step, attempt = int(row["step"]), int(row["attempt"])
        if self.steps and (attempt != self.attempt or step < self.steps[-1]):
            self._forget_from(step)
        self.attempt = attempt
        if not self.steps or step > self.steps[-1]:
            self.steps.append(step)
        for name, value in row.items():
            if name != "step" and _is_number(value):
                values = self.columns.get(name)
                if values is None:
                    values = self.columns[name] = array("d")
                values.extend([math.nan] * (len(self.steps) - len(values)))
                values[-1] = value if isinstance(value, (int, float)) else math.nan

    def _add_alike(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Add rows that name the same metrics, as most do: in a fifth of the time.

        The rows have as many names each. Returns False, with nothing added, for rows that do not name the
        same, are not just the next steps of this attempt, or not all numbers.
        """
        names = rows[0]
        try:
            # Of as many names, a row that has all of the first one's has no other.
            columns = dict(zip(names, zip(*map(itemgetter(*names), rows), strict=True), strict=True))
            steps = array("q", columns.pop("step"))
            values = {name: array("d", column) for name, column in columns.items()}
        except (TypeError, KeyError, ValueError, OverflowError):  # a text, such as "nan"; an event
            return False
        ascending = all(map(lt, [self.steps[-1] if self.steps else -1, *steps], steps))
        if not ascending or set(columns.get("attempt", ())) != {self.attempt} or "time" not in columns:
            return False
        if not {"event", "alert"}.isdisjoint(columns):
            return False
        self._add_columns(values, len(self.steps))
        self.steps.extend(steps)
        return True

    def _add_columns(self, values: "dict[str, array[float]]", rows_before: int) -> None:
        times = values["time"]
        self.first_time = times[0] if math.isnan(self.first_time) else self.first_time
        self.last_time = times[-1]
        for name, column in values.items():
            known = self.columns.setdefault(name, array("d"))
            known.extend([math.nan] * (rows_before - len(known)))
            known.extend(column)

    def _forget_from(self, step: int) -> None:
        """Drop the rows from `step` on: the run went back there and does them again."""
        keep = bisect_left(self.steps, step)
        del self.steps[keep:]
        for values in self.columns.values():
            del values[keep:]


def _parsed(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return the JSON objects of lines, an empty one for a line that is none."""
    with suppress(ValueError):
        found = list(map(orjson.loads, lines))
        if set(map(type, found)) <= {dict}:
            return found
    return [parsed_line(line) for line in lines]


def parsed_line(line: bytes) -> dict[str, Any]:
    """Return the JSON object of a line, an empty one if it is none."""
    found = None
    try:
        found = orjson.loads(line)
    except ValueError:
        with suppress(ValueError):  # Python's own reader takes file names that are not UTF-8
            found = json.loads(line)
    return found if isinstance(found, dict) else {}


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


def read_runs(run_dirs: Sequence[Path]) -> list[RunLog]:
    """Return everything that some runs have logged so far. Raises the error of the first bad record."""
    found = updated([RunLog(path) for path in run_dirs])
    for _, error in found:
        if error is not None:
            raise error
    return [run for run, _ in found]


def updated(runs: Sequence[RunLog]) -> list[Updated]:
    """Return the runs with all they have logged by now, each with what was wrong with its record."""
    under_way = reading_ahead(runs) if _workers(runs) > 1 else []
    return [outcome(each) for each in under_way] if under_way else [_updated(run) for run in runs]


def reading_ahead(runs: Sequence[RunLog], *, niceness: int = 0) -> "list[Future[Updated]]":
    """Begin to update the runs in as many processes as there are cores; return what will be their outcomes.

    All but the first process are nicer by `niceness`. Returns nothing, and does nothing, where that costs
    more than it saves, or other threads run here.
    """
    unread = sum(_size(run) - run.bytes_read for run in runs)
    if unread < _BYTES_FOR_PROCESSES or threading.active_count() > 1:
        return []
    fork = multiprocessing.get_context("fork")
    prepared = (fork.Value("i", 0), niceness)
    pool = ProcessPoolExecutor(_workers(runs), fork, initializer=_begin_to_read, initargs=prepared)
    under_way = [pool.submit(_updated, run) for run in runs]
    pool.shutdown(wait=False)  # when all is read
    return under_way


def _workers(runs: Sequence[RunLog]) -> int:
    return min(len(runs), len(os.sched_getaffinity(0)))


def _begin_to_read(begun: "Synchronized[int]", niceness: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who waits for this process ends it
    with begun.get_lock():
        begun.value += 1
        is_first = begun.value == 1
    os.nice(0 if is_first else niceness)


def outcome(read: "Future[Updated]") -> Updated:
    """Return what a process has read. Raises MemoryError if it was killed, as for want of memory."""
    try:
        return read.result()
    except BrokenProcessPool as error:
        raise MemoryError("a process that read records was killed; show fewer runs at a time") from error


def _updated(run: RunLog) -> Updated:
    try:
        run.update()
    except UserError as error:
        return run, error
    return run, None


def _size(run: RunLog) -> int:
    with suppress(OSError):
        return (run.run_dir / FILE_NAME).stat().st_size
    return run.bytes_read
