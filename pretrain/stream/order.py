"""Which sequence stands at which place of training: a pure function of the seed.

Nothing here holds a position that counts, so resuming is arithmetic: sequence g of a run is the same
on 1 GPU or 512, on the first try or the fifth. Sequence g belongs to lane g mod C and is that lane's
p-th, p = g div C. The epochs' block permutations, laid end to end, are dealt to the lanes like
cards; a lane reads its blocks one after another, the rows of each in an order of their own. So a
batch mixes C random blocks, each rank opens only the blocks of its own lanes, and every row is
read exactly once per epoch, short blocks included.

What is kept is a memory of the last answer: the next one is mostly beside it.
"""

import bisect
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pretrain.stream.shuffle import permutations, shuffle_into

_KEPT_EPOCHS = 3  # two lanes may be in neighbouring epochs; older deals are made again if asked for
# Turns between two running sums. The sums take 1/64 of the memory that one for each turn would, and
# what lies between two of them is added up when a lane is looked for.
_STRIDE = 64


class Place(NamedTuple):
    """Where one sequence is found: pass over the data, block of the split, row of the block."""

    epoch: int
    block: int
    row: int


@dataclass(frozen=True)
class _Deal:
    """One epoch's blocks as they are dealt to the lanes; a turn is one round."""

    blocks: np.ndarray  # int32 (turns, C): a block's number, or that of none where it begins or ends mid-turn
    sums: np.ndarray  # int64 (turns / _STRIDE, C): rows of the lane in turns before each multiple
    rows: np.ndarray  # int64 (C,): rows of the lane in the whole epoch


class Order:
    """The order in which one split's sequences are read."""

    def __init__(self, rows_per_block: np.ndarray, *, lanes: int, seed: int) -> None:
        """Deal blocks with `rows_per_block` sequences each, integers (blocks,), to `lanes` lanes.

        Raises ValueError if there is no sequence at all, or no lane.
        """
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes}")
        self.sequences_per_epoch = int(rows_per_block.sum(dtype=np.int64))
        if self.sequences_per_epoch < 1:
            raise ValueError("the split holds no whole sequence")
        self.lanes = lanes
        self.longest = int(rows_per_block.max())  # rows
        self.seed = seed
        # As narrow as it goes: a trillion tokens are 15 million blocks. The last is that of no block.
        self.rows = np.append(rows_per_block, 0).astype(np.min_scalar_type(self.longest))
        self._deals: OrderedDict[int, _Deal] = OrderedDict()
        self._firsts = [np.zeros(lanes, np.int64)]  # of each epoch and of the next: rows of earlier ones
        self._walk = Walk(self)

    @property
    def blocks(self) -> int:
        """Return how many blocks are dealt in an epoch."""
        return len(self.rows) - 1

    def place(self, sequence: int) -> Place:
        """Return where sequence number `sequence` (counted from 0 over the whole run) is found."""
        return Place(*self.places(sequence, 1)[0].tolist())

    def places(self, first: int, count: int) -> np.ndarray:
        """Return the places of `count` sequences from number `first` on: int64 (count, 3), as in Place."""
        return self._walk.places(first, count)

    def deal(self, epoch: int) -> _Deal:
        """Return how the blocks of an epoch lie in the lanes; the epochs before it must have been dealt."""
        if epoch in self._deals:
            self._deals.move_to_end(epoch)
            return self._deals[epoch]
        begin = epoch * self.blocks % self.lanes  # the deal goes on at the lane where it stopped
        turns = -(-(begin + self.blocks) // self.lanes)
        cards = np.full(turns * self.lanes, self.blocks, np.int32)
        shuffle_into(cards[begin : begin + self.blocks], self.seed, epoch)
        cards = cards.reshape(turns, self.lanes)
        steps = [
            self.rows.take(cards[turn : turn + _STRIDE], mode="clip").sum(0, dtype=np.int32)
            for turn in range(0, turns, _STRIDE)
        ]
        sums = np.cumsum([np.zeros(self.lanes, np.int64), *steps], axis=0)
        deal = self._deals[epoch] = _Deal(cards, sums[:-1], sums[-1])
        if len(self._deals) > _KEPT_EPOCHS:
            self._deals.popitem(last=False)
        if epoch == len(self._firsts) - 1:
            self._firsts.append(self._firsts[-1] + deal.rows)
        return deal

    def epochs_of(self, lanes: np.ndarray, position: int) -> np.ndarray:
        """Return the epoch in which each of `lanes` has its `position`-th row: int64, as long as `lanes`."""
        while (over := self._firsts[-1][lanes] <= position).any():
            if over.all():
                self._deals.clear()  # a jump: what lies between is not read, and 60 MB a trillion tokens
            self.deal(len(self._firsts) - 1)
        if (self._firsts[-2][lanes] <= position).all():
            return np.full(len(lanes), len(self._firsts) - 2)

        def epoch(lane: int) -> int:
            return bisect.bisect_right(self._firsts, position, lo=1, key=lambda rows: rows[lane]) - 1

        return np.array([epoch(lane) for lane in lanes.tolist()], np.int64)

    def first_row(self, epoch: int, lanes: np.ndarray) -> np.ndarray:
        """Return how many rows each lane has read when `epoch` begins: int64."""
        return self._firsts[epoch][lanes]

    def blocks_at(self, epoch: int, lanes: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the block in which each lane has its row number `rows` of `epoch`, and where the block ends.

        Blocks are int32, ends int64; an end is one past the block's last row, counted as `rows` are.
        """
        deal = self.deal(epoch)
        coarse = (deal.sums[:, lanes] <= rows).sum(0) - 1
        # (_STRIDE, lanes): the turns from there on; past the deal's end, its last turn, which is not reached.
        turns = np.minimum(coarse * _STRIDE + np.arange(_STRIDE)[:, None], len(deal.blocks) - 1)
        blocks = deal.blocks[turns, lanes]
        ends = np.cumsum(self.rows[blocks], axis=0, dtype=np.int64) + deal.sums[coarse, lanes]
        fine = (ends <= rows).sum(0)
        column = np.arange(len(lanes))
        return blocks[fine, column], ends[fine, column]


class Walk:
    """Answers where sequences lie, quickly if each question is about what follows the one before."""

    def __init__(self, order: Order) -> None:
        self._order = order
        lanes = order.lanes
        self._epoch = np.zeros(lanes, np.int64)
        self._block = np.full(lanes, -1, np.int64)
        self._begin = np.zeros(lanes, np.int64)  # the lane's first row in the block, and one past its last
        self._end = np.zeros(lanes, np.int64)
        # (C, longest): the order of rows in the lane's block; of 65,536 tokens, 64 rows of 1024.
        self._rows = np.zeros((lanes, order.longest), np.min_scalar_type(order.longest))

    def places(self, first: int, count: int) -> np.ndarray:
        """Return the places of `count` sequences from number `first` on: int64 (count, 3), as in Place."""
        found = np.empty((count, 3), np.int64)
        done = 0
        while done < count:
            position, lane = divmod(first + done, self._order.lanes)
            part = min(count - done, self._order.lanes - lane)
            self._fill(found[done : done + part], slice(lane, lane + part), position)
            done += part
        return found

    def _fill(self, found: np.ndarray, lanes: slice, position: int) -> None:
        """Write the places of the `position`-th row of some neighbouring lanes."""
        away = (position < self._begin[lanes]) | (position >= self._end[lanes])
        if away.any():
            self._move(np.flatnonzero(away) + lanes.start, position)
        found[:, 0] = self._epoch[lanes]
        found[:, 1] = self._block[lanes]
        found[:, 2] = self._rows[np.arange(lanes.start, lanes.stop), position - self._begin[lanes]]

    def _move(self, lanes: np.ndarray, position: int) -> None:
        """Bring lanes to the block that holds their `position`-th row."""
        epochs = self._order.epochs_of(lanes, position)
        for epoch in set(epochs.tolist()):  # np.unique imports a part of NumPy first, for 6 ms
            of_it = lanes[epochs == epoch]
            self._seek(of_it, position, epoch)
            blocks = self._block[of_it]
            sizes = self._order.rows[blocks]
            for size in set(sizes.tolist()):
                same = sizes == size
                self._rows[of_it[same], :size] = permutations(size, self._order.seed, epoch, blocks[same], 1)

    def _seek(self, lanes: np.ndarray, position: int, epoch: int) -> None:
        """Set the block of each lane that holds its `position`-th row, which lies in `epoch`."""
        earlier = self._order.first_row(epoch, lanes)
        blocks, ends = self._order.blocks_at(epoch, lanes, position - earlier)
        self._epoch[lanes] = epoch
        self._block[lanes] = blocks
        self._end[lanes] = ends + earlier
        self._begin[lanes] = self._end[lanes] - self._order.rows[blocks]
