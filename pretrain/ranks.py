"""What each rank measured, as all ranks see it: the mean, the worst, and whose it is."""

import math
from collections.abc import Mapping

from pretrain.distributed import World, summed


class Ranks:
    """Named measurements of every rank, in the order of ranks; NaN where a rank has none."""

    def __init__(self, values: Mapping[str, list[float]]) -> None:
        self._values = values

    @classmethod
    def gathered(cls, world: World, own: Mapping[str, float]) -> "Ranks":
        """Return what all ranks measured. Collective: every rank must give the same names, in one order."""
        table = [0.0] * (world.size * len(own))
        table[world.rank * len(own) : (world.rank + 1) * len(own)] = own.values()
        table = summed(world, *table)
        return cls({name: table[place :: len(own)] for place, name in enumerate(own)})

    def __getitem__(self, name: str) -> list[float]:
        return self._values[name]

    def known(self, name: str) -> bool:
        """Say whether any rank has measured it."""
        return any(not math.isnan(value) for value in self[name])

    def mean(self, name: str) -> float:
        """Return the mean over the ranks that have measured it."""
        found = [value for value in self[name] if not math.isnan(value)]
        return math.fsum(found) / len(found)

    def largest(self, name: str) -> float:
        """Return the largest value."""
        return self[name][self.rank_of_largest(name)]

    def smallest(self, name: str) -> float:
        """Return the smallest value."""
        return min(value for value in self[name] if not math.isnan(value))

    def rank_of_largest(self, name: str) -> int:
        """Return which rank has the largest value; the first of equals."""
        values = self[name]
        return max(
            range(len(values)), key=lambda rank: -math.inf if math.isnan(values[rank]) else values[rank]
        )
