"""How blocks come from an object store or a web server: one range request each, ahead of time.

Each lane's next block is on its way while the present one is read, so memory is bounded by two blocks
for each lane of the rank. A request that fails is tried again, ever more slowly, until a deadline;
then the run ends with what the server said last. What arrives is compared with the index, so a
wrong answer is asked for again and never trained on.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from conf.exits import CorruptError, DatasetError, UserError
from data_prep import remote
from data_prep.index import Index
from data_prep.shards import DIGEST, DTYPE, Shard, check_block, check_digests
from pretrain.stream.blocks import Digests

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0
# A whole answer with wrong bytes is the store's, not the network's; but a proxy may have cut one.
_MOST_WRONG_ANSWERS = 3

_T = TypeVar("_T")

Range = Callable[[str, int, int], bytes]  # (name, offset, length) → bytes of that file


@dataclass(frozen=True)
class FetchConfig:
    """How remote shards are read; no batch depends on it."""

    at_once: int = 16  # requests under way, of one rank
    deadline_seconds: float = 300.0  # for one block, all tries together; below watchdog.data_seconds
    timeout_seconds: float = 30.0  # for one try
    stage_dir: str | None = None  # node-local folder that whole shards are copied to; null copies none
    stage_gb: float = 100.0  # that the folder may hold

    def __post_init__(self) -> None:
        for name in ("at_once", "deadline_seconds", "timeout_seconds", "stage_gb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"data.fetch.{name} must be above 0, not {getattr(self, name)}")


class Fetcher:
    """Reads ranges of the files in one remote folder, patiently."""

    def __init__(self, location: str, config: FetchConfig) -> None:
        self._location = location
        self._config = config
        self._closing = threading.Event()
        self.requests = 0  # all tries
        self.failures = 0

    def close(self) -> None:
        """Let no request be tried again."""
        self._closing.set()

    def fetch(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes of a file, fewer only where it ends.

        Raises DatasetError if it is not there, may not be read, or did not come before the deadline.
        """
        url = f"{self._location}/{name}"
        deadline = time.monotonic() + self._config.deadline_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self.requests += 1
            try:
                return remote.read_range(url, offset, length, timeout=self._config.timeout_seconds)
            except UserError:  # nothing that a second try would mend
                raise
            except Exception as error:  # whatever a client library raises: it may pass
                self.failures += 1
                reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
            left = deadline - time.monotonic()
            if left <= 0 or self._closing.is_set():
                raise DatasetError(
                    f"{url} could not be read for {self._config.deadline_seconds:g} s: {reason}; the same "
                    "command goes on when the storage does (data.fetch.deadline_seconds)"
                )
            # Full jitter, or the ranks that failed together would come again together.
            self._closing.wait(min(left, pause * random.uniform(0.5, 1.0)))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class RemoteBlocks:
    """Blocks of a data set behind a URL."""

    looks_ahead = True

    def __init__(self, index: Index, config: FetchConfig) -> None:
        self.fetcher = Fetcher(index.location, config)
        self._location = index.location
        self._pool = ThreadPoolExecutor(config.at_once, "fetch")
        self._coming: dict[tuple[str, int], Future[bytes]] = {}
        self._digests = Digests(self._table)

    def expect(self, wanted: Sequence[tuple[Shard, int]]) -> None:
        """Ask for blocks that will be read soon; the caller bounds how many."""
        for shard, number in wanted:
            if (shard.name, number) not in self._coming:
                self._coming[shard.name, number] = self._pool.submit(self._block, shard, number)

    def read(self, shard: Shard, number: int, into: np.ndarray) -> None:
        """Wait for one block; see Blocks."""
        self.expect([(shard, number)])
        into[:] = np.frombuffer(self._coming.pop((shard.name, number)).result(), DTYPE)

    def close(self) -> None:
        """Ask for nothing more."""
        self.fetcher.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _block(self, shard: Shard, number: int) -> bytes:
        digest, path = self._digests.of(shard, number), f"{self._location}/{shard.name}"
        offset, tokens = shard.block(number)

        def checked(content: bytes) -> bytes:
            check_block(content, shard, number, digest, path)
            return content

        return self._fetched(shard, offset, (tokens + 1) * DTYPE.itemsize, checked)

    def _table(self, shard: Shard) -> np.ndarray:
        path, length = f"{self._location}/{shard.name}", shard.block_count * DIGEST.itemsize
        return self._fetched(shard, shard.table, length, lambda content: check_digests(content, shard, path))

    def _fetched(self, shard: Shard, offset: int, length: int, checked: Callable[[bytes], _T]) -> _T:
        """Return what `checked` makes of a part of a shard; ask again for what it calls corrupt."""
        for tries_left in reversed(range(_MOST_WRONG_ANSWERS)):
            content = self.fetcher.fetch(shard.name, offset, length)
            try:
                return checked(content)
            except CorruptError:
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")
