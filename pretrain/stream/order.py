"""Which sequence stands at which place of training: a pure function of the seed.

Nothing here holds a position, so resuming is arithmetic: sequence g of a run is the same on 1 GPU
or 512, on the first try or the fifth. Sequence g belongs to lane g mod C and is that lane's
p-th, p = g div C. The epochs' block permutations, laid end to end, are dealt to the lanes like
cards; a lane reads its blocks one after another, the rows of each in an order of their own. So a
batch mixes C random blocks, each rank opens only the blocks of its own lanes, and every row is
read exactly once per epoch, short blocks included.

The shuffle is our own arithmetic because NumPy may change its random streams between releases
(NEP 19), and that would silently reorder a resumed run.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

# 2**64 / golden ratio, the increment of splitmix64: it spreads small numbers over all 64 bits.
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


class Place(NamedTuple):
    """Where one sequence is found: pass over the data, block of the split, row of the block."""

    epoch: int
    block: int
    row: int


@dataclass(frozen=True)
class _Epoch:
    """One epoch's deal of the blocks to the lanes; a `turn` is one round of the deal."""

    blocks: np.ndarray  # (turns, C): block number, or -1 where the deal began or ended mid-turn
    ends: np.ndarray  # (turns, C): rows of the lane up to and with this turn, since the epoch began
    first: np.ndarray  # (C,): rows of the lane in all earlier epochs


class Order:
    """The order in which one split's sequences are read."""

    def __init__(self, rows_per_block: np.ndarray, *, lanes: int, seed: int) -> None:
        """Deal blocks with `rows_per_block` sequences each, int64 (blocks,), to `lanes` lanes.

        Raises ValueError if there is no sequence at all, or no lane.
        """
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes}")
        if rows_per_block.sum() < 1:
            raise ValueError("the split holds no whole sequence")
        self._rows = rows_per_block.astype(np.int64)
        self._lanes = lanes
        self._seed = seed
        self._epochs: list[_Epoch] = []

    @property
    def sequences_per_epoch(self) -> int:
        """Return how many sequences one pass over the data holds."""
        return int(self._rows.sum())

    def place(self, sequence: int) -> Place:
        """Return where sequence number `sequence` (counted from 0 over the whole run) is found."""
        position, lane = divmod(sequence, self._lanes)
        number, epoch = self._epoch_of(lane, position)
        ends = epoch.ends[:, lane]
        within = position - int(epoch.first[lane])
        turn = int(np.searchsorted(ends, within, side="right"))
        block = int(epoch.blocks[turn, lane])
        rows = int(self._rows[block])
        slot = within - (int(ends[turn]) - rows)
        return Place(number, block, int(permutation(rows, self._seed, number, block, 1)[slot]))

    def _epoch_of(self, lane: int, position: int) -> tuple[int, _Epoch]:
        """Return the epoch that holds the lane's `position`-th row, dealing further ones if needed."""
        while not self._epochs or position >= self._end(self._epochs[-1], lane):
            self._epochs.append(self._deal(len(self._epochs)))
        low, high = 0, len(self._epochs) - 1
        while low < high:
            middle = (low + high) // 2
            if position < self._end(self._epochs[middle], lane):
                high = middle
            else:
                low = middle + 1
        return low, self._epochs[low]

    @staticmethod
    def _end(epoch: _Epoch, lane: int) -> int:
        return int(epoch.first[lane] + epoch.ends[-1, lane])

    def _deal(self, number: int) -> _Epoch:
        blocks = permutation(len(self._rows), self._seed, number)
        begin = number * len(blocks) % self._lanes  # the deal goes on at the lane where it stopped
        turns = -(-(begin + len(blocks)) // self._lanes)
        grid = np.full(turns * self._lanes, -1, np.int64)
        grid[begin : begin + len(blocks)] = blocks
        grid = grid.reshape(turns, self._lanes)
        ends = np.cumsum(np.where(grid >= 0, self._rows[grid], 0), axis=0)
        previous = self._epochs[-1] if self._epochs else None
        first = previous.first + previous.ends[-1] if previous else np.zeros(self._lanes, np.int64)
        return _Epoch(grid, ends, first)


def permutation(size: int, *key: int) -> np.ndarray:
    """Return a permutation of range(size), int64 (size,), that depends on the integers of `key` alone."""
    state = 0
    for part in key:
        state = int(_mix(np.array([(state ^ part) & _MASK], np.uint64))[0])
    return np.argsort(_mix(np.arange(size, dtype=np.uint64) ^ np.uint64(state)), kind="stable")


def _mix(x: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers (splitmix64; Steele, Lea & Flood, OOPSLA 2014)."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
