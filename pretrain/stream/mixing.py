"""Which source each sequence of a mixture comes from: a fixed one for every lane.

A seeded table gives each of the C lanes to one source, in proportion to the weights, as nearly as C
parts allow. Within its lanes a source has the order that it would have alone with so many lanes. So a
mixture, too, is a pure function of the sequence's number: every batch holds each source in its
proportion, ranks open only the blocks of their own lanes, and a jump to any step is arithmetic. With
one source it is that source's own order, to the last sequence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pretrain.stream.order import Order, Walk
from pretrain.stream.shuffle import permutation

_TABLE = 0x7461626C65  # tells the table's shuffle from those of blocks and rows
_TOLERATED = 0.1  # of a share, by which a source's part of the lanes may miss it without a word
_SEED_BITS = 32  # the seed is below 2**31, so a source's number stands above it


class SourcePlace(NamedTuple):
    """Where one sequence of a mixture is found."""

    source: int
    epoch: int  # passes over that source
    block: int
    row: int


class Mixture:
    """The order in which several sources are read together."""

    def __init__(
        self, rows_per_block: Sequence[np.ndarray], weights: Sequence[float], *, lanes: int, seed: int
    ) -> None:
        """Give each source, integers (blocks,) of sequences per block, its share of the lanes.

        Raises ValueError as `quotas` does, or if a source holds no sequence.
        """
        self.lanes = lanes
        self.shares = [weight / sum(weights) for weight in weights]  # that were asked for
        self.quotas = quotas(weights, lanes)
        if len(weights) == 1:
            self.table = np.zeros(lanes, np.int64)
        else:
            cards = np.repeat(np.arange(len(weights)), self.quotas)
            self.table = cards[permutation(lanes, seed, _TABLE)]
        self.orders = [
            Order(rows, lanes=quota, seed=seed + (number << _SEED_BITS))
            for number, (rows, quota) in enumerate(zip(rows_per_block, self.quotas, strict=True))
        ]
        # (sources, C + 1): of the lanes before each one, how many are the source's.
        owned = self.table == np.arange(len(weights))[:, None]
        self._before = np.concatenate([np.zeros((len(weights), 1), np.int64), owned.cumsum(1)], axis=1)

    def place(self, sequence: int) -> SourcePlace:
        """Return where sequence number `sequence` (counted from 0 over the whole run) is found."""
        return SourcePlace(*MixtureWalk(self).places(sequence, 1)[0].tolist())

    def consumed(self, sequences: int) -> list[int]:
        """Return how many of a run's first `sequences` sequences are each source's."""
        periods, rest = divmod(sequences, self.lanes)
        return [
            int(periods * quota + before[rest])
            for quota, before in zip(self.quotas, self._before, strict=True)
        ]

    def passes(self, sequences: int) -> list[float]:
        """Return how often a run of so many sequences goes over each source."""
        consumed = self.consumed(sequences)
        return [count / order.sequences_per_epoch for count, order in zip(consumed, self.orders, strict=True)]

    @property
    def misfits(self) -> list[int]:
        """Return the sources whose part of the lanes misses their share by more than a tenth of it."""
        return misfits(self.shares, self.lanes)

    @property
    def fitting_lanes(self) -> int:
        """Return the fewest lanes, a multiple of these, of which every source gets its share, nearly."""
        lanes = self.lanes
        while misfits(self.shares, lanes):  # no quota misses by a lane: enough at 10 / the smallest share
            lanes += self.lanes
        return lanes

    def of_source(self, source: int, position: int, lanes: slice) -> range:
        """Return the source's own numbers of what some neighbouring lanes read as their `position`-th."""
        first, last = self._before[source, lanes.start], self._before[source, lanes.stop]
        begin = position * self.quotas[source]
        return range(begin + int(first), begin + int(last))


class MixtureWalk:
    """Answers where sequences lie, quickly if each question is about what follows the one before."""

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture
        self._walks = [Walk(order) for order in mixture.orders]

    def places(self, first: int, count: int) -> np.ndarray:
        """Return the places of `count` sequences from number `first` on: int64 (count, 4), as SourcePlace."""
        mixture, found, done = self._mixture, np.empty((count, 4), np.int64), 0
        if len(self._walks) == 1:
            found[:, 0] = 0
            found[:, 1:] = self._walks[0].places(first, count)
            return found
        while done < count:
            position, lane = divmod(first + done, mixture.lanes)
            lanes = slice(lane, min(lane + count - done, mixture.lanes))
            part = found[done : done + lanes.stop - lanes.start]
            part[:, 0] = mixture.table[lanes]
            for source, walk in enumerate(self._walks):
                numbers = mixture.of_source(source, position, lanes)
                if numbers:
                    part[part[:, 0] == source, 1:] = walk.places(numbers.start, len(numbers))
            done += len(part)
        return found


def misfits(shares: Sequence[float], lanes: int) -> list[int]:
    """Return of which sources the part of the lanes is off by more than a tenth of the share."""
    parts = zip(shares, quotas(shares, lanes), strict=True)
    return [n for n, (share, quota) in enumerate(parts) if abs(quota / lanes - share) > _TOLERATED * share]


def quotas(weights: Sequence[float], lanes: int) -> list[int]:
    """Return how many of `lanes` each weight gets: its share's whole part; the largest rests get one more.

    (Hamilton's method, 1792.) Raises ValueError, naming how many lanes would do, if one would get none.
    """
    shares = np.array(weights, np.float64) * lanes / sum(weights)
    whole = np.floor(shares).astype(np.int64)
    # The smaller number first among equal rests.
    for source in np.argsort(-(shares - whole), kind="stable")[: lanes - int(whole.sum())]:
        whole[source] += 1
    if (whole < 1).any():
        smallest = int(np.argmin(shares))
        needed = int(np.ceil(lanes / shares[smallest]))
        raise ValueError(
            f"weight {weights[smallest]:g} of source {smallest} is less than one of {lanes} lanes; "
            f"set data.lanes to {-(-needed // lanes) * lanes} or more"
        )
    return whole.tolist()
