"""Whole shards on a node's own disk: copied once by whichever rank comes first, checked, and evicted.

Training never waits for a copy: until a shard is there, its blocks come from where it lies, by range
request or from a shared file system. A folder may serve many runs and data sets; what was not read for
ten minutes makes room for what is needed. A shard for which there is no room stays where it lies, so a
data set larger than the folder does not thrash.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from conf.exits import CorruptError, DatasetError, UserError
from data_prep.index import Index
from data_prep.publish import TEMPORARY
from data_prep.remote import is_remote
from data_prep.shards import Shard
from pretrain.stream.blocks import LocalBlocks
from pretrain.stream.remote import FetchConfig, Range, RemoteBlocks

_PIECE_BYTES = 8 << 20
_IN_USE_SECONDS = 600.0  # a shard that was read so lately is not evicted
_TOUCH_SECONDS = 60.0
_GB = 1e9


class StagedBlocks:
    """Blocks of a data set, from the node's disk where they are there, else from where they lie."""

    def __init__(self, index: Index, config: FetchConfig) -> None:
        assert config.stage_dir is not None
        if is_remote(index.location):
            self._origin = RemoteBlocks(index, config)
            self._fetch: Range = self._origin.fetcher.fetch
        else:
            self._origin = LocalBlocks(index.directory)
            self._fetch = self._origin.fetch
        self.looks_ahead = self._origin.looks_ahead
        self._stage = Stage(Path(config.stage_dir), index, int(config.stage_gb * _GB))
        self._staged = LocalBlocks(self._stage.folder)
        self._touched: dict[str, float] = {}
        self._closing = threading.Event()
        shards = [shard for split in index.splits.values() for shard in split.shards]
        # Ranks begin at different shards, so that they do not queue for one.
        begin = os.getpid() % max(1, len(shards))
        self._thread = threading.Thread(
            target=self._copy_all, args=(shards[begin:] + shards[:begin],), name="staging", daemon=True
        )
        self._thread.start()

    def read(self, shard: Shard, number: int, into: np.ndarray) -> None:
        """Read one block; see Blocks."""
        path = self._stage.path(shard)
        if path.exists():
            # Gone in this very moment, or damaged on this disk: the original is still there.
            with contextlib.suppress(DatasetError, CorruptError, OSError):
                self._staged.read(shard, number, into)
                self._touch(path)
                return
        self._origin.read(shard, number, into)

    def expect(self, wanted: Sequence[tuple[Shard, int]]) -> None:
        """Ask for what will be read soon and is not on this disk."""
        self._origin.expect([each for each in wanted if not self._stage.path(each[0]).exists()])

    def close(self) -> None:
        """Stop copying and reading ahead."""
        self._closing.set()
        self._origin.close()
        self._thread.join()

    def _copy_all(self, shards: Sequence[Shard]) -> None:
        for shard in shards:
            if self._closing.is_set():
                return
            # Staging is a convenience: what it cannot do, or finds wrong, reading tells in its own way.
            with contextlib.suppress(UserError, OSError):
                self._stage.copy(shard, self._fetch, self._closing)

    def _touch(self, path: Path) -> None:
        now = time.monotonic()
        if now - self._touched.get(path.name, -_TOUCH_SECONDS) >= _TOUCH_SECONDS:
            self._touched[path.name] = now
            os.utime(path)


class Stage:
    """A folder of shards on a node's disk."""

    def __init__(self, folder: Path, index: Index, capacity_bytes: int) -> None:
        self._root = folder
        self.folder = folder / index.fingerprint[:16]  # the part of this data set
        self._capacity = capacity_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetError(
                f"data.fetch.stage_dir {folder} cannot be made: {error.strerror}; choose a folder on the "
                "node's disk, or null"
            ) from error

    def path(self, shard: Shard) -> Path:
        """Return where a shard is, or would be."""
        return self.folder / shard.name

    def copy(self, shard: Shard, fetch: Range, closing: threading.Event) -> bool:
        """Copy a shard, unless it is there, is being copied by another process, or finds no room.

        Say whether it is there now. Raises CorruptError if what arrived is not what the index says.
        """
        path = self.path(shard)
        temporary = path.with_name(path.name + TEMPORARY)
        with self._claimed(temporary, path, shard.bytes) as descriptor:
            if descriptor is None:
                return path.exists()
            digest, done = hashlib.sha256(), 0
            while done < shard.bytes and not closing.is_set():
                piece = fetch(shard.name, done, min(_PIECE_BYTES, shard.bytes - done))
                if not piece:
                    break
                os.pwrite(descriptor, piece, done)
                digest.update(piece)
                done += len(piece)
            if closing.is_set():
                return False
            if digest.hexdigest() != shard.sha256:
                raise CorruptError(
                    f"{shard.name} arrived otherwise than the index says; it stays where it lies"
                )
            temporary.rename(path)
            return True

    @contextlib.contextmanager
    def _claimed(self, temporary: Path, path: Path, size: int) -> Iterator[int | None]:
        """Yield a file of `size` bytes that only this process writes; None if there is no call for one.

        The claim is a lock on the file, so that of a process that died ends with it.
        """
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            try:
                mine = os.path.samestat(os.fstat(descriptor), temporary.stat())
            except FileNotFoundError:
                mine = False  # its last owner has just finished it
            if path.exists() or not mine or not self._room(descriptor, temporary, size):
                if mine:
                    temporary.unlink(missing_ok=True)
                yield None
                return
            try:
                yield descriptor
            finally:
                temporary.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def _room(self, descriptor: int, temporary: Path, size: int) -> bool:
        """Take `size` bytes of the folder for a file, after evicting what nobody reads; say if there were."""
        with (self._root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            held = {path: path.stat() for path in self._root.glob("*/*.tar*") if path != temporary}
            total = sum(status.st_size for status in held.values())
            finished = [path for path in held if path.suffix == ".tar"]
            for path in sorted(finished, key=lambda path: held[path].st_mtime):
                if total + size <= self._capacity or time.time() - held[path].st_mtime < _IN_USE_SECONDS:
                    break
                path.unlink(missing_ok=True)
                total -= held[path].st_size
            if total + size > self._capacity:
                return False
            try:
                os.ftruncate(descriptor, 0)
                os.posix_fallocate(descriptor, 0, size)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                return False
            return True
