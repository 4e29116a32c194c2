"""How lines get into a growing file, though the disk is full for a while: none is lost or overtaken.

What the disk refuses waits in memory and goes before the next line. Lines since the last `sync` are kept,
because the kernel may drop what a failed fsync could not write (Rebello et al., 2020, "Can applications
recover from fsync failures?"): they are written once more, so a reader has to know a line that comes twice.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

from pretrain.storage import durable
from pretrain.storage.faults import fault_point

# What may be over in a minute.
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
_LINES_PER_SYNC = 10_000  # of a run that is never saved: some 2 MB
_MOST_LINES = 200_000  # that may wait; some 40 MB, hours of steps


class LineFile:
    """The open end of a file of lines, private and in order."""

    def __init__(self, path: Path, most_lines: int = _MOST_LINES) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, durable.FILE_MODE)
        self._path = path
        self._most_lines = most_lines
        self._unsynced: list[bytes] = []
        self._unwritten = bytearray()
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            self._unwritten += b"\n"  # what a crash cut off stays a line of its own

    def add(self, line: str) -> None:
        """Append a line, or keep it for later. Raises OSError when too many wait."""
        data = f"{line}\n".encode()
        self._unsynced.append(data)
        self._unwritten += data
        try:
            self._write()
            if len(self._unsynced) % _LINES_PER_SYNC == 0:
                self.sync()
        except OSError as error:
            if error.errno not in _PASSING or len(self._unsynced) > self._most_lines:
                raise

    def sync(self) -> None:
        """Return when all lines are on disk. Raises OSError if the disk refuses; they are kept then."""
        self._write()
        try:
            fault_point("lines.sync")
            durable.sync(self._descriptor)
        except OSError as error:
            self._unwritten = bytearray(b"\n" + b"".join(self._unsynced))
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._unsynced.clear()

    def close(self) -> None:
        """Write what can be written, and let go of the file."""
        if self._descriptor >= 0:
            with suppress(OSError):  # steps that no checkpoint has sealed: the next attempt takes them again
                self._write()
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self) -> None:
        try:
            while self._unwritten:
                fault_point("lines.write")
                del self._unwritten[: os.write(self._descriptor, self._unwritten)]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
