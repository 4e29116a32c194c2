"""The sequences of one split of one data set, cut from its blocks as they are asked for.

A block is read once, checked as it is opened, and kept in a fixed piece of memory until the lanes have
long left it.
"""

import mmap
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from conf.exits import CorruptError, DatasetError
from data_prep.index import Index
from data_prep.shards import DTYPE, Shard
from pretrain.stream.blocks import Blocks, LocalBlocks

Alignment = Literal["block", "document"]
ALIGNMENTS = ("block", "document")


class Sequences:
    """The sequences of one split, by block and row."""

    def __init__(
        self,
        index: Index,
        split: str,
        sequence_tokens: int,
        *,
        cached_blocks: int,
        blocks: Blocks | None = None,
        align: str = "block",
        tolerant: bool = False,
    ) -> None:
        """Take where the `blocks` come from, the index's own folder by default.

        With `align` "document" a sequence begins at the first document that begins in its row, if any
        does and it leaves the sequence room. If `tolerant`, a damaged block is remembered in `damaged`,
        and its sequences are skipped. Raise DatasetError if the split is absent, or its blocks do not
        hold whole sequences.
        """
        if split not in index.splits:
            raise DatasetError(
                f"{index.location}/index.json has no split '{split}'; it has {', '.join(index.splits)}"
            )
        if index.block_tokens % sequence_tokens:
            raise DatasetError(
                f"data.sequence_tokens {sequence_tokens} does not divide the data set's blocks of "
                f"{index.block_tokens} tokens; use a power of two up to {index.block_tokens}"
            )
        self.blocks: Blocks = LocalBlocks(index.directory) if blocks is None else blocks
        self.bytes_read = 0
        self.damaged: dict[int, CorruptError] = {}
        self._shards = [shard for shard in index.splits[split].shards if shard.tokens]
        self._first, self.rows_per_block = _layout(self._shards, index.block_tokens, sequence_tokens)
        self.width = sequence_tokens + 1
        self._tokens = sequence_tokens
        self._tolerant = tolerant
        self._end_of_text = index.end_of_text if align == "document" else None
        capacity = max(1, min(cached_blocks, len(self.rows_per_block)))
        self._memory = _pages((capacity, index.block_tokens + 1))
        self._windows = np.lib.stride_tricks.sliding_window_view(self._memory, sequence_tokens + 1, axis=1)
        self._starts = np.zeros((capacity, index.block_tokens // sequence_tokens), np.int64)
        self._slots: dict[int, int] = {}  # of each block that is in memory
        self._held = np.full(capacity, -1, np.int64)  # the block in each slot
        self._used = np.zeros(capacity, np.int64)  # the turn in which each slot was last asked for
        self._turn = 0

    def __len__(self) -> int:
        return int(self.rows_per_block.sum(dtype=np.int64))

    @property
    def cached_blocks(self) -> int:
        """Return how many blocks are in memory."""
        return len(self._slots)

    def row(self, block: int, row: int) -> np.ndarray:
        """Return the T + 1 tokens, uint16, of which the last T are the targets of the first T.

        Raises CorruptError, naming shard, member and offset, if the block is not as recorded.
        """
        found = np.empty((1, self._tokens + 1), DTYPE)
        if not self.fill(found, np.array([block]), np.array([row]))[0]:
            raise self.damaged[block]
        return found[0]

    def fill(self, found: np.ndarray, blocks: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Write the sequences at `rows` of `blocks` to `found`, uint16 (n, T + 1); say which are there.

        All are, bool (n,), unless it is tolerant of damage. Raises CorruptError as `row` does, and
        DatasetError if a shard cannot be read.
        """
        there = np.ones(len(blocks), bool)
        # No more at a time than there are slots, or a block could be put out before its row is copied.
        for first in range(0, len(blocks), len(self._memory)):
            part = slice(first, first + len(self._memory))
            slots = self._placed(blocks[part].tolist())
            starts = self._starts[slots, rows[part]]
            found[part] = self._windows[slots, starts]
            there[part] = slots >= 0
        return there

    def expect(self, blocks: Iterable[int]) -> None:
        """Say which blocks will be wanted soon, the first one first."""
        missing = (block for block in blocks if block not in self._slots and block not in self.damaged)
        self.blocks.expect([self._member(block) for block in missing])

    def close(self) -> None:
        """Stop reading ahead."""
        self.blocks.close()

    def _placed(self, blocks: list[int]) -> np.ndarray:
        """Return where blocks lie in memory, after reading those that do not: int64, -1 if it is damaged.

        There are no more of them than slots, or one could be put out for another.
        """
        slots = list(map(self._slots.get, blocks))
        self._turn += 1
        if None in slots:
            self._used[[slot for slot in slots if slot is not None]] = self._turn
            slots = [self._slot(block) for block in blocks]
        found = np.array(slots, np.int64)
        self._used[found] = self._turn  # of damaged ones, that of the last slot: it is put out later
        return found

    def _slot(self, block: int) -> int:
        """Return where a block lies in memory, after reading it if need be; -1 if it is damaged."""
        if block in self._slots:
            return self._slots[block]
        if block in self.damaged:
            return -1
        slot = int(self._used.argmin())  # the one that was used longest ago, or never
        self._slots.pop(int(self._held[slot]), None)
        self._held[slot] = -1
        try:
            self._read(block, slot)
        except CorruptError as error:
            self.damaged[block] = error
            if not self._tolerant:
                raise
            return -1
        self._used[slot] = self._turn
        self._slots[block], self._held[slot] = slot, block
        return slot

    def _read(self, block: int, slot: int) -> None:
        shard, number = self._member(block)
        tokens = self._memory[slot, : shard.block(number).tokens + 1]
        self.blocks.read(shard, number, tokens)
        self.bytes_read += tokens.nbytes
        rows = int(self.rows_per_block[block])
        starts = np.arange(rows) * self._tokens
        if self._end_of_text is not None:
            starts = _aligned(tokens, starts, self._tokens, self._end_of_text)
        self._starts[slot, :rows] = starts

    def _member(self, block: int) -> tuple[Shard, int]:
        shard = int(np.searchsorted(self._first, block, side="right")) - 1
        return self._shards[shard], block - int(self._first[shard])


def _pages(shape: tuple[int, int]) -> np.ndarray:
    """Return an uint16 array whose memory is taken page by page, as blocks arrive.

    np.empty would ask for huge pages, for which the kernel may have to move others first: 5 ms for each,
    of which a resume's first batch takes several.
    """
    size = shape[0] * shape[1] * DTYPE.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, DTYPE).reshape(shape)


def _layout(
    shards: Sequence[Shard], block_tokens: int, sequence_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first block of each shard, and of none behind the last; and the sequences of each block.

    A block's last incomplete row, fewer than T tokens at the end of a shard, is not a sequence.
    """
    firsts = np.cumsum([0, *(shard.block_count for shard in shards)])
    rows = block_tokens // sequence_tokens
    rows_per_block = np.full(firsts[-1], rows, np.min_scalar_type(rows))
    last = [shard.block(shard.block_count - 1).tokens for shard in shards]
    rows_per_block[firsts[1:] - 1] = np.array(last, np.int64) // sequence_tokens
    return firsts, rows_per_block


def _aligned(tokens: np.ndarray, starts: np.ndarray, length: int, end_of_text: int) -> np.ndarray:
    """Return for each row the place of the first document that begins in it; else the row's own start.

    The row's own start, too, if the sequence would run over the block's end, (payload + 1,) `tokens`.
    """
    begins = np.append(np.flatnonzero(tokens[:-1] == end_of_text), len(tokens))
    first = begins[np.searchsorted(begins, starts)]
    fits = (first < starts + length) & (first + length < len(tokens))
    return np.where(fits, first, starts)
