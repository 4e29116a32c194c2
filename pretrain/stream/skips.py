"""Which sequences of damaged blocks are skipped, and when there were too many: all ranks agree.

Their targets do not count in the loss; every other sequence stays where it was. Each is named in the
ledger, so what a run did not see is on record.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple

from conf.exits import CorruptError
from pretrain.distributed import World, gather_texts


class Skip(NamedTuple):
    """One sequence that was not trained on."""

    sequence: int  # its number in the order of training
    source: int
    block: int
    reason: str  # what is wrong with the block: shard, member, offset


class Skips:
    """The skipped sequences of a run, as all ranks know them."""

    def __init__(self, budget: int, known: Iterable[int] = ()) -> None:
        """Take how many the run may skip, and the numbers of those that earlier attempts did."""
        self.budget = budget
        self.sequences = set(known)
        self._pending: list[Skip] = []

    @property
    def pending(self) -> bool:
        """Say whether this rank has skipped something that the others do not know of yet."""
        return bool(self._pending)

    def add(self, skips: Iterable[Skip]) -> None:
        """Take in what this rank's batch lacks."""
        self._pending += skips

    def agree(self, world: World) -> list[Skip]:
        """Return what all ranks have skipped since they last agreed. Collective.

        Raises CorruptError, on every rank, if the run has now skipped more than its budget.
        """
        told = gather_texts(world, json.dumps(self._pending))
        self._pending = []
        found = sorted({Skip(*each) for text in told for each in json.loads(text)})
        self.sequences |= {skip.sequence for skip in found}
        if len(self.sequences) > self.budget:
            raise CorruptError(
                f"{len(self.sequences)} sequences of damaged blocks are skipped, data.skip_sequences allows "
                f"{self.budget}: {found[0].reason}"
            )
        return found
