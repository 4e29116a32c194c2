"""What a page shows of a long record until all of it is read: the settings, and a few hundred of its rows.

The rows are those that were logged, evenly spaced over the file, and none that a later attempt has replaced:
where an attempt begins is found to the line. What needs the whole record, such as sums and newest values,
is left out.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pretrain.watching.metrics_log import FILE_NAME
from pretrain.watching.run_log import RunLog, parsed_line

# Fewer than the points of a diagram, so that each of these is one row and not the mean of two.
_PARTS = 256


@dataclass(frozen=True)
class _Line:
    start: int  # bytes into the file
    end: int
    content: dict[str, Any]  # empty for a line that is no JSON object

    @property
    def attempt(self) -> Any:
        return self.content.get("attempt")

    @property
    def is_row(self) -> bool:
        return "step" in self.content and "event" not in self.content and "alert" not in self.content


def sketch(run_dir: Path) -> RunLog:
    """Return some rows of a run and the settings of its attempts: nothing, if there is no record."""
    run = RunLog(run_dir, sketched=True)
    with suppress(OSError), (run_dir / FILE_NAME).open("rb") as file:
        for line in _telling(file):
            if line.is_row or line.content.get("event") == "started":
                # Who reads the whole record names what is wrong with it.
                with suppress(ValueError, TypeError, KeyError, OverflowError):
                    run.add(line.content)
    return run


def _telling(file: BinaryIO) -> Iterator[_Line]:
    """Yield sampled lines in their order, and from where an attempt begins all lines up to its first row.

    For that row tells which rows of earlier attempts count no longer.
    """
    told, attempt = 0, None
    for line in _sampled(file):
        if line.start < told:
            continue
        yield line
        awaits_row = line.attempt != attempt and not line.is_row
        told, attempt = line.end, line.attempt
        while awaits_row and (following := _line_from(file, told)):
            yield following
            awaits_row = not following.is_row
            told, attempt = following.end, following.attempt


def _sampled(file: BinaryIO) -> Iterator[_Line]:
    """Yield lines in their order: the first, the last, evenly spaced ones, the first of each attempt."""
    size = os.fstat(file.fileno()).st_size
    if first := _line_from(file, 0):
        yield first
        yield from _between(file, first, _Line(size, size, {}), size // _PARTS)


def _between(file: BinaryIO, low: _Line, high: _Line, width: int) -> Iterator[_Line]:
    """Yield lines between two others, so many that none are further apart than `width` bytes."""
    gap = high.start - low.end
    if gap <= 0 or (gap <= width and low.attempt == high.attempt):
        return
    for place in (low.end + gap // 2, low.end):  # the second where a long line fills the rest
        middle = _line_from(file, place)
        if middle and middle.start < high.start:
            yield from _between(file, low, middle, width)
            yield middle
            yield from _between(file, middle, high, width)
            return


def _line_from(file: BinaryIO, place: int) -> _Line | None:
    """Return the first line that begins at this byte or later; None if no finished line does."""
    file.seek(max(0, place - 1))
    if place > 0:
        file.readline()  # the rest of the line before; only its end, if a line begins at `place`
    start = file.tell()
    line = file.readline()
    return _Line(start, start + len(line), parsed_line(line)) if line.endswith(b"\n") else None
