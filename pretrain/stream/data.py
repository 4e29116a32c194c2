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
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from data_prep.shards import DTYPE
from pretrain.batch import BatchPlan
from pretrain.cross_entropy import IGNORED
from pretrain.stream.detours import Detour, landed
from pretrain.stream.mixing import Mixture, MixtureWalk
from pretrain.stream.sequences import Sequences
from pretrain.stream.skips import Skip


class Batch(NamedTuple):
    """One rank's share of one step."""

    micro_batches: Sequence[torch.Tensor]  # int64 (B, T + 1) each, on the device
    epoch: int  # of the rank's first sequence
    wait_seconds: float  # how long the training loop stood still for it
    places: str  # SHA-256 of (epoch, block, row) of each sequence, int64; of a mixture, source before epoch
    skips: tuple[Skip, ...] = ()  # sequences whose every token is IGNORED


class _Ready(NamedTuple):
    """A share of a step that is on the device, or on its way."""

    tokens: torch.Tensor  # uint16 (sequences, T + 1)
    arrival: torch.cuda.Event | None
    epoch: int
    places: str
    skips: tuple[Skip, ...]
    missing: list[int]  # rows of `tokens` that are skipped


class Batches:
    """This rank's batches, from a sequence of the run on; those of detours are passed over."""

    def __init__(
        self,
        sources: Sequence[Sequences],
        mixture: Mixture,
        *,
        plan: BatchPlan,
        rank: int,
        first_sequence: int,
        prefetch: int,
        device: torch.device,
        names: Sequence[str] = ("",),
        detours: Sequence[Detour] = (),
    ) -> None:
        """Take the number of the first sequence that no rank has consumed yet, and the sources' names."""
        self._names = names
        self._detours = detours
        self._sources = sources
        self._mixture = mixture
        self._plan = plan
        self._rank = rank
        self._device = device
        self._walk = MixtureWalk(mixture)
        self._ahead: _LookAhead | None = None
        if any(source.blocks.looks_ahead for source in sources):
            self._ahead = _LookAhead(sources, mixture, plan, rank)
        # Memory for the tokens of a step, used again: fresh memory costs more than what is written to it.
        self._spare: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
        self._ready: queue.Queue[_Ready | BaseException] = queue.Queue(maxsize=prefetch)
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._fill, args=(first_sequence,), name="batches", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the next step's batch. Raises what the reading thread met: CorruptError, DatasetError."""
        started = time.perf_counter()
        item = self._ready.get()
        waited = time.perf_counter() - started
        if isinstance(item, BaseException):
            raise item
        tokens = item.tokens
        if item.arrival is not None:
            consumer = torch.cuda.current_stream(self._device)
            consumer.wait_event(item.arrival)
            tokens.record_stream(consumer)
        size = self._plan.micro_sequences
        micro_batches = tokens.long().split(size)  # 16 bits travel, 64 are used
        if item.arrival is None:
            self._spare.put(tokens.numpy())
        for row in item.missing:
            micro_batches[row // size][row % size] = IGNORED
        return Batch(micro_batches, item.epoch, waited, item.places, item.skips)

    def proportions(self, sequences: int) -> dict[str, float]:
        """Return as metrics what each source made of a run's first sequences, and its epochs."""
        if len(self._names) == 1:
            return {}
        consumed, passes = self._mixture.consumed(sequences), self._mixture.passes(sequences)
        shares = {
            f"data/share/{n}": count / sequences for n, count in zip(self._names, consumed, strict=True)
        }
        return shares | {f"data/epoch/{n}": each for n, each in zip(self._names, passes, strict=True)}

    def told(self, sequences: int) -> str:
        """Return in a line what a run of so many sequences is mixed of; if that is far off, so in another."""
        passes = self._mixture.passes(sequences)
        parts = [
            f"{name} {quota / self._mixture.lanes:.2%} ({each:.2f} epochs)"
            for name, quota, each in zip(self._names, self._mixture.quotas, passes, strict=True)
        ]
        return f"mixed of {', '.join(parts)}{self._warning()}"

    def _warning(self) -> str:
        """Return a line on the sources that get much more or less than their weight; none, if none does."""
        mixture = self._mixture
        name, got = self._names, [quota / mixture.lanes for quota in mixture.quotas]
        off = [f"{name[n]} has {got[n]:.2%} for a weight of {mixture.shares[n]:.2%}" for n in mixture.misfits]
        if not off:
            return ""
        lanes = mixture.fitting_lanes
        return (
            f"\nwarning: {', '.join(off)}, for {mixture.lanes} lanes cut no finer; begin the run with "
            f"data.lanes={lanes}, or a batch of {lanes} sequences"
        )

    def close(self) -> None:
        """Stop the reading thread."""
        self._closing.set()
        while not self._ready.empty():
            self._ready.get_nowait()
        for source in self._sources:
            source.close()
        self._thread.join()

    def _fill(self, first: int) -> None:
        try:
            # A stream of its own: the copy to the device goes on while the step before computes.
            stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
            while not self._closing.is_set():
                first = landed(first, self._detours)
                size = self._plan.sizes.at(first)
                self._put(self._read(first, size // self._plan.ranks, stream))
                first += size
        except BaseException as error:
            self._put(error)

    def _put(self, item: _Ready | BaseException) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return

    def _read(self, first: int, share: int, stream: torch.cuda.Stream | None) -> _Ready:
        """Return this rank's `share` sequences of the global batch that begins at sequence `first`."""
        if self._ahead is not None:
            self._ahead.expect(first)
        first += self._rank * share
        places = self._walk.places(first, share)
        tokens, there = self._gathered(places)
        missing = np.flatnonzero(~there).tolist()
        skips = tuple(self._skip(first + row, places[row]) for row in missing)
        arrival = None
        if stream is not None:
            with torch.cuda.stream(stream):
                pinned = tokens.pin_memory()
                self._spare.put(tokens.numpy())
                tokens = pinned.to(self._device, non_blocking=True)
                arrival = torch.cuda.Event()
                arrival.record(stream)
        return _Ready(tokens, arrival, int(places[0, 1]), self._digest(places), skips, missing)

    def _gathered(self, places: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Return the sequences at some places, uint16 (n, T + 1), and which of them are there."""
        tokens = self._memory(len(places))
        if len(self._sources) == 1:
            return torch.from_numpy(tokens), self._sources[0].fill(tokens, places[:, 2], places[:, 3])
        there = np.ones(len(places), bool)
        for number, source in enumerate(self._sources):
            mine = np.flatnonzero(places[:, 0] == number)
            part = np.empty((len(mine), source.width), DTYPE)
            there[mine] = source.fill(part, places[mine, 2], places[mine, 3])
            tokens[mine] = part
        return torch.from_numpy(tokens), there

    def _memory(self, sequences: int) -> np.ndarray:
        """Return memory for so many sequences, that of an earlier batch of the size if one is done with."""
        with contextlib.suppress(queue.Empty):
            while len(spare := self._spare.get_nowait()) != sequences:
                pass  # of a smaller batch
            return spare
        return np.empty((sequences, self._sources[0].width), DTYPE)

    def _digest(self, places: np.ndarray) -> str:
        return places_digest(places, single=len(self._sources) == 1)

    def _skip(self, sequence: int, place: np.ndarray) -> Skip:
        source, _, block, _ = place.tolist()
        return Skip(sequence, source, block, str(self._sources[source].damaged[block]))


class _LookAhead:
    """Asks for the blocks that the lanes will enter next, before they do."""

    def __init__(self, sources: Sequence[Sequences], mixture: Mixture, plan: BatchPlan, rank: int) -> None:
        self._sources = sources
        self._walk = MixtureWalk(mixture)
        self._plan, self._rank = plan, rank
        # As far as a lane's longest block lasts, so that at most one block of each lane is on its way.
        self._horizon = max(order.longest for order in mixture.orders) * mixture.lanes
        self._reached = 0

    def expect(self, first: int) -> None:
        """Ask for what is new between the last call and a horizon behind the batch that begins at `first`."""
        end = first + self._horizon
        self._reached = max(first, self._reached)
        while self._reached < end:
            size = self._plan.sizes.at(self._reached)
            share = size // self._plan.ranks
            places = self._walk.places(self._reached + self._rank * share, share)
            for source, sequences in enumerate(self._sources):
                wanted = places[places[:, 0] == source, 2]
                sequences.expect(dict.fromkeys(wanted.tolist()))
            self._reached += size


def places_digest(places: np.ndarray, *, single: bool) -> str:
    """Return the SHA-256 of int64 (n, 4) places; of a run with a single source, without its number."""
    told = places[:, 1:] if single else places
    return hashlib.sha256(np.ascontiguousarray(told).tobytes()).hexdigest()
