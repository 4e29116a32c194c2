"""Which tokens a rank sees at a step, fetched before it asks for them.

The order decides where each sequence lies; this module opens the blocks, checks them, and keeps a
few batches ready on a background thread: no worker processes, no shared memory, nothing to save.
What was consumed is counted by the loop, never what was prefetched.
"""

import contextlib
import hashlib
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from conf.exits import DatasetError
from data_prep.shards import Index, read_block
from pretrain.batch import BatchPlan
from pretrain.stream.detours import Detour, landed
from pretrain.stream.order import Order

_BLOCKS_PER_LANE = 2  # the block being read, and the one that the lane has just left or will enter


@dataclass(frozen=True)
class DataConfig:
    """Which data set, in which order."""

    index: str = "???"  # must be given: OmegaConf's mark of a missing value
    sequence_tokens: int = 1024  # T; the model's context, or less
    lanes: int | None = None  # blocks that a batch mixes; None is one for each sequence of a batch
    prefetch_batches: int = 3
    document_mask: bool = False  # no attention across documents, and positions that begin anew in each

    def __post_init__(self) -> None:
        for name in ("sequence_tokens", "prefetch_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1, not {getattr(self, name)}")
        if self.lanes is not None and self.lanes < 1:
            raise ValueError(f"data.lanes must be at least 1, or null for one per sequence, not {self.lanes}")


class Batch(NamedTuple):
    """One rank's share of one step."""

    micro_batches: list[torch.Tensor]  # int64 (B, T + 1) each, on the device
    epoch: int  # of the rank's first sequence
    wait_seconds: float  # how long the training loop stood still for it
    places: str  # SHA-256 of (epoch, block, row) of each sequence, int64


class Sequences:
    """The sequences of one split, by block and row."""

    def __init__(self, index: Index, split: str, sequence_tokens: int, *, cached_blocks: int) -> None:
        """Raise DatasetError if the split is absent, or its blocks do not hold whole sequences."""
        if split not in index.splits:
            raise DatasetError(
                f"{index.directory}/index.json has no split '{split}'; it has {', '.join(index.splits)}"
            )
        if index.block_tokens % sequence_tokens:
            raise DatasetError(
                f"data.sequence_tokens {sequence_tokens} does not divide the data set's blocks of "
                f"{index.block_tokens} tokens; use a power of two up to {index.block_tokens}"
            )
        self._directory = index.directory
        self._blocks = [(shard, n) for shard in index.splits[split].shards for n in range(len(shard.blocks))]
        self._tokens = sequence_tokens
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached_blocks = cached_blocks
        # A block's last incomplete row, fewer than T tokens at the end of a shard, is not a sequence.
        self.rows_per_block = np.array(
            [shard.blocks[n].tokens // sequence_tokens for shard, n in self._blocks], np.int64
        )

    def __len__(self) -> int:
        return int(self.rows_per_block.sum())

    def row(self, block: int, row: int) -> np.ndarray:
        """Return the T + 1 tokens, uint16, of which the last T are the targets of the first T.

        Raises CorruptError, naming shard, member and offset, if the block is not as recorded.
        """
        tokens = self._cache.get(block)
        if tokens is None:
            tokens = read_block(self._directory, *self._blocks[block])
            self._cache[block] = tokens
            if len(self._cache) > self._cached_blocks:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(block)
        return tokens[row * self._tokens : (row + 1) * self._tokens + 1]


def training_order(
    index: Index, data: DataConfig, *, batch_sequences: int, seed: int
) -> tuple[Sequences, Order]:
    """Return the training split's sequences and the order in which all ranks together read them."""
    lanes = data.lanes or batch_sequences
    sequences = Sequences(index, "train", data.sequence_tokens, cached_blocks=_BLOCKS_PER_LANE * lanes)
    if not len(sequences):
        raise DatasetError(
            f"{index.directory}/index.json: no training block holds a whole sequence of "
            f"{data.sequence_tokens} tokens; use a smaller data.sequence_tokens or a larger corpus"
        )
    return sequences, Order(sequences.rows_per_block, lanes=lanes, seed=seed)


class Batches:
    """This rank's batches, from a step on; what the detours pass over counts as steps, too."""

    def __init__(
        self,
        sequences: Sequences,
        order: Order,
        *,
        plan: BatchPlan,
        rank: int,
        first_step: int,
        prefetch: int,
        device: torch.device,
        detours: Sequence[Detour] = (),
    ) -> None:
        self._sequences = sequences
        self._detours = detours
        self._order = order
        self._plan = plan
        self._rank = rank
        self._device = device
        self._ready: queue.Queue[tuple[torch.Tensor, int, str] | BaseException] = queue.Queue(
            maxsize=prefetch
        )
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._fill, args=(first_step,), name="batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next step's batch. Raises what the reading thread met: CorruptError, OSError."""
        started = time.perf_counter()
        item = self._ready.get()
        waited = time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        tokens, epoch, digest = item
        moved = tokens.to(self._device, non_blocking=True).long()  # 16 bits travel, 64 are used
        return Batch(list(moved.split(self._plan.micro_sequences)), epoch, waited, digest)

    def close(self) -> None:
        """Stop the reading thread."""
        self._closing.set()
        while not self._ready.empty():
            self._ready.get_nowait()
        self._thread.join()

    def _fill(self, step: int) -> None:
        try:
            while not self._closing.is_set():
                step = landed(step * self._plan.sequences, self._detours) // self._plan.sequences
                self._put(self._read(step))
                step += 1
        except BaseException as error:
            self._put(error)

    def _put(self, item: tuple[torch.Tensor, int, str] | BaseException) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return

    def _read(self, step: int) -> tuple[torch.Tensor, int, str]:
        """Return this rank's slice of the global batch, uint16 (sequences, T + 1), its epoch and places."""
        share = self._plan.sequences // self._plan.ranks
        first = step * self._plan.sequences + self._rank * share
        places = [self._order.place(number) for number in range(first, first + share)]
        rows = np.stack([self._sequences.row(place.block, place.row) for place in places])
        tokens = torch.from_numpy(rows)
        if self._device.type == "cuda":
            tokens = tokens.pin_memory()
        digest = hashlib.sha256(np.array(places, np.int64).tobytes()).hexdigest()
        return tokens, places[0].epoch, digest
