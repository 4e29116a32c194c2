"""Who may train in a run directory: one live process, and after a take-over never the old one again.

Two layers. The kernel's lock on `.lease.lock` names one holder per host at once, and lets go the
moment that process dies. Not every shared file system carries the lock across hosts, so the holder
also writes `.lease.json`, keeps its time stamp fresh, and draws a fence: a number larger than every
earlier holder's. A node that was cut off finds the larger fence before it can publish a checkpoint.
"""

import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from conf.exits import CorruptError, LeaseHeldError, RefusedError
from pretrain.storage import durable
from pretrain.storage.faults import fault_point

LOCK_NAME = ".lease.lock"  # locked, never renamed or removed: the lock is on the file, not its name
LEASE_NAME = ".lease.json"
_LEASE_MOST_BYTES = 1 << 16

HEARTBEAT_SECONDS = 10.0
# A holder on another host that has been silent this long is taken for dead. If it is not, its fence
# is older, and its next commit is refused.
STALE_SECONDS = 60.0
# Lustre mounted without -o flock, some FUSE and NFS set-ups.
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
# Between winning the lock and naming oneself lie a few milliseconds; a loser waits for the name.
_NAMING_SECONDS = 0.5


@dataclass(frozen=True)
class Holder:
    """What `.lease.json` says of the process that holds the directory, or held it last."""

    fence: int
    nonce: str
    host: str
    pid: int
    job: str  # scheduler's job id, "" outside one
    started_at: str  # ISO 8601, UTC
    released: bool = False

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"pid {self.pid} on {self.host}{job}, since {self.started_at}"


class Lease:
    """The right to train in one run directory. Made by `acquire`."""

    def __init__(self, run_dir: Path, lock: int, holder: Holder, heartbeat_seconds: float | None) -> None:
        self.run_dir = run_dir
        self.holder = holder
        self._lock: int | None = lock
        self._ended = threading.Event()
        # A forked child would keep the kernel's lock alive after this process is killed.
        os.register_at_fork(after_in_child=self._close)
        if heartbeat_seconds is not None:
            threading.Thread(target=self._beat, args=(heartbeat_seconds,), daemon=True).start()

    @property
    def fence(self) -> int:
        """A number larger than that of every earlier holder; it goes into each manifest."""
        return self.holder.fence

    def still_mine(self) -> bool:
        """Tell whether nobody has taken the directory over."""
        if self._lock is None:
            return False
        with durable.opened_directory(self.run_dir) as directory:
            current = _read(directory)
            if current is None:  # wiped by hand; the kernel's lock is still ours
                _write(directory, self.holder)
                return True
        return current.nonce == self.holder.nonce and not current.released

    def check(self) -> None:
        """Raise LeaseHeldError, naming the new holder, unless the directory is still ours."""
        if not self.still_mine():
            with durable.opened_directory(self.run_dir) as directory:
                current = _read(directory)
            raise LeaseHeldError(
                f"{self.run_dir} was taken over by {current} (fence {current.fence if current else '?'}, "
                f"this process has {self.fence}); this process must stop"
            )

    def release(self) -> None:
        """Give the directory back; a second call does nothing."""
        if self._lock is None:
            return
        self._ended.set()
        with suppress(OSError):  # whoever comes next finds the lock free, named or not
            if self.still_mine():
                with durable.opened_directory(self.run_dir) as directory:
                    _write(directory, replace(self.holder, released=True))
        self._close()

    def _close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _beat(self, every_seconds: float) -> None:
        """Keep the lease's time stamp fresh until released, by the file server's own clock."""
        while not self._ended.wait(every_seconds):
            with suppress(OSError), durable.opened_directory(self.run_dir) as directory:
                current = _read(directory)
                if current and current.nonce == self.holder.nonce:  # never keep a successor's alive
                    os.utime(LEASE_NAME, dir_fd=directory, follow_symlinks=False)


def acquire(
    run_dir: Path,
    *,
    above: int = 0,
    owner: Mapping[str, str] | None = None,
    heartbeat_seconds: float | None = HEARTBEAT_SECONDS,
) -> Lease:
    """Take the run directory for this process, making it if it is missing.

    `above` is `commit.highest_fence` of its checkpoints, so that fences grow even if the lease file
    was lost. `owner` overrides the facts host and job. Rank 0 calls this and tells the others.

    Raises:
        LeaseHeldError: Another live process holds it; the text names it. Takes under a second.
        RefusedError: The directory is another user's, or everybody can write it.
    """
    run_dir = Path(run_dir)
    facts = {"host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID", ""), **(owner or {})}
    durable.make_root(run_dir)
    with durable.opened_directory(run_dir) as directory:
        lock = _opened_lock(directory, run_dir)
        try:
            is_locked = _lock_or_raise(lock, run_dir, directory, facts)
            last = _read(directory)
            mine = _successor(last, above, facts)
            _refuse_living(last, mine, run_dir, directory, is_locked=is_locked)
            _write(directory, mine)
            fault_point("lease.written")
        except BaseException:
            os.close(lock)
            raise
    return Lease(run_dir, lock, mine, heartbeat_seconds)


def _opened_lock(directory: int, run_dir: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(LOCK_NAME, flags, durable.FILE_MODE, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RefusedError(f"{run_dir / LOCK_NAME} is a symbolic link; remove it") from error
        raise


def _lock_or_raise(lock: int, run_dir: Path, directory: int, owner: Mapping[str, str]) -> bool:
    """Lock and return True, or raise LeaseHeldError with the holder's name once it has written it.

    False means that the lease file has to do: this file system has no locks, or a node that was cut
    off holds it for a process that the scheduler has replaced by this one.
    """
    deadline = time.monotonic() + _NAMING_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            holder = _read(directory)
            if holder is not None and _is_earlier_life(holder, **owner):
                return False
            named = holder is not None and not holder.released and _may_live(holder)
            if named or time.monotonic() > deadline:
                who = str(holder) if named else "a process that has not named itself yet"
                raise LeaseHeldError(
                    f"{run_dir} is in use by {who}; stop it or choose another run_dir"
                ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        time.sleep(0.01)


def _may_live(holder: Holder) -> bool:
    return holder.host != socket.gethostname() or Path(f"/proc/{holder.pid}").exists()


def _successor(last: Holder | None, above: int, owner: Mapping[str, str]) -> Holder:
    """Return this process as the holder that follows `last`."""
    return Holder(
        fence=max(last.fence if last else 0, above) + 1,
        nonce=secrets.token_hex(8),
        host=owner["host"],
        pid=os.getpid(),
        job=owner["job"],
        started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _refuse_living(
    last: Holder | None, mine: Holder, run_dir: Path, directory: int, *, is_locked: bool
) -> None:
    """Raise LeaseHeldError if the last holder may live where the kernel's lock does not reach."""
    if last is None or last.released:
        return
    if last.host == mine.host and (is_locked or not _may_live(last)):
        return
    if _is_earlier_life(last, host=mine.host, job=mine.job):
        return
    silent_seconds = _silent_seconds(directory)
    if silent_seconds < STALE_SECONDS:
        raise LeaseHeldError(
            f"{run_dir} is in use by {last}, heard of {silent_seconds:.0f} s ago; stop it, "
            f"or try again when it has been silent for {STALE_SECONDS:.0f} s"
        )


def _is_earlier_life(last: Holder, *, host: str, job: str) -> bool:
    """Say whether the scheduler has ended the holder, and started its job again on this host."""
    return last.host != host and bool(job) and last.job == job


def _silent_seconds(directory: int) -> float:
    """Return the age of the last heartbeat, both ends read off the file server's clock."""
    os.utime(LOCK_NAME, dir_fd=directory, follow_symlinks=False)
    now = os.stat(LOCK_NAME, dir_fd=directory, follow_symlinks=False).st_mtime
    return now - os.stat(LEASE_NAME, dir_fd=directory, follow_symlinks=False).st_mtime


def _read(directory: int) -> Holder | None:
    """Return the recorded holder, or None if nothing readable is recorded."""
    try:
        data = durable.read_file(LEASE_NAME, within=directory, most_bytes=_LEASE_MOST_BYTES)
        holder = Holder(**json.loads(data))
    except (CorruptError, ValueError, TypeError, RecursionError):
        return None
    return holder if type(holder.fence) is int and type(holder.pid) is int else None


def _write(directory: int, holder: Holder) -> None:
    data = json.dumps(asdict(holder), indent=1).encode()
    durable.replace_file(LEASE_NAME, data, within=directory, nonce=holder.nonce)
