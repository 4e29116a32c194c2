"""Who may work on a thing: one live process at a time, and the next one is told who holds it.

A lock spares double work; it is not what keeps the output right. Files are put in place whole and hold
the same bytes whoever writes them, so a file system without locks costs time only.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conf.exits import LeaseHeldError

_HOLDER_SECONDS = 2.0
_WITHOUT_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; the kernel lets it go when the process dies.

    Raises LeaseHeldError at once, naming the holder's host, process and job, if another process holds it.
    """
    descriptor = _held_descriptor(path, what)
    try:
        holder = {"host": socket.gethostname(), "process": os.getpid(), "job": _job()}
        os.pwrite(descriptor, json.dumps(holder).encode().ljust(200), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _job() -> str:
    """Return the SLURM job that this process is of, as squeue names it, or nothing."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def _held_descriptor(path: Path, what: str) -> int:
    """Return a descriptor of `path` that holds its lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"{what} is being worked on by {_holder(descriptor)}; wait for it or stop it"
            os.close(descriptor)
            raise LeaseHeldError(message) from None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(descriptor)
                raise
        # The holder before us may have removed the file between our open and our lock.
        if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """Return who holds the lock; a holder writes that just after it got it."""
    deadline = time.monotonic() + _HOLDER_SECONDS
    while time.monotonic() < deadline:
        try:
            holder = json.loads(os.pread(descriptor, 200, 0))
            job = f" (job {holder['job']})" if holder.get("job") else ""
            return f"process {holder['process']} on {holder['host']}{job}"
        except ValueError:
            time.sleep(0.02)
    return "another process"
