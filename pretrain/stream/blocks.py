"""How the bytes of a block come into memory, wherever its shard lies, and are checked there."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from conf.exits import DatasetError
from data_prep.publish import read_exactly
from data_prep.shards import Shard, read_block_into, read_digests


class Blocks(Protocol):
    """Where the blocks of one data set come from."""

    looks_ahead: bool  # whether `expect` saves time

    def read(self, shard: Shard, number: int, into: np.ndarray) -> None:
        """Write a block and its overlap token to `into`, uint16 (tokens + 1,).

        Raises CorruptError, naming shard, member and offset, if its bytes are not those of the index,
        and DatasetError if they cannot be had.
        """
        ...

    def expect(self, wanted: Sequence[tuple[Shard, int]]) -> None:
        """Say which blocks will be read soon, the first one first."""
        ...

    def close(self) -> None:
        """Stop whatever goes on in the background."""
        ...


class Digests:
    """The digests of the blocks of each shard that was met, 8 bytes a block, read once."""

    def __init__(self, read: Callable[[Shard], np.ndarray]) -> None:
        """Take what reads a shard's table, uint64 (blocks,); whatever it raises, `of` does."""
        self._read = read
        self._known: dict[str, np.ndarray] = {}
        self._locks: dict[str, threading.Lock] = {}

    def of(self, shard: Shard, number: int) -> int:
        """Return the digest of one block; many threads may ask."""
        if (found := self._known.get(shard.name)) is None:
            with self._locks.setdefault(shard.name, threading.Lock()):  # they ask for a table once
                if (found := self._known.get(shard.name)) is None:
                    found = self._known[shard.name] = self._read(shard)
        return int(found[number])


class LocalBlocks:
    """Blocks of a data set in a folder, on a local disk or a shared file system.

    They are read, not mapped: a shard that shrinks under a map kills the process by SIGBUS, and one
    that changes would do so after it was checked.
    """

    looks_ahead = False

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._digests = Digests(lambda shard: read_digests(directory, shard))

    def read(self, shard: Shard, number: int, into: np.ndarray) -> None:
        """Read one block; see Blocks."""
        read_block_into(self._directory, shard, number, self._digests.of(shard, number), into)

    def fetch(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes of a file, fewer only where it ends; DatasetError if it cannot be read."""
        path = self._directory / name
        try:
            with path.open("rb", buffering=0) as file:
                return bytes(read_exactly(file.fileno(), length, offset))
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}") from error

    def expect(self, wanted: Sequence[tuple[Shard, int]]) -> None:
        """Do nothing: a block is one read away."""

    def close(self) -> None:
        """Do nothing: nothing goes on."""
