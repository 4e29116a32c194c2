"""What the kernel tells of a process, and how a process is bound to its parent."""

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def started(pid: int) -> str:
    """Return the start time of a process in the kernel's ticks; "" if it has ended."""
    fields = _stat(pid)
    return "" if fields[0] in "ZX" else fields[19]


def state(pid: int) -> str:
    """Return the kernel's letter for what a process does: R, S, D, T, t, Z."""
    return _stat(pid)[0]


def children(parent: int) -> list[int]:
    """Return the processes that `parent` has started and that have not been collected."""
    everyone = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [pid for pid in everyone if _stat(pid)[1:2] == [str(parent)]]


def _stat(pid: int) -> list[str]:
    """Return what follows the name in a process's line: the state, the parent, …; ["X"] if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return ["X"]


def die_with(parent: int) -> None:
    """Have the kernel end this process when `parent` ends, so that no orphan keeps a device."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended in between
        os._exit(128 + signal.SIGKILL)
