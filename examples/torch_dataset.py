"""Give any PyTorch loop the order, the mixing and the storage of this project: an IterableDataset.

usage: python examples/torch_dataset.py INDEX      (prints three batches)

Its state is one number: how many sequences all ranks have consumed. It is good for any number of ranks.
Use it with DataLoader(dataset, batch_size=None, num_workers=0): it reads ahead on a thread of its own.
"""

import sys
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset

from pretrain.batch import BatchPlan
from pretrain.stream.data import Batches
from pretrain.stream.sources import DataConfig, opened_sources, training_data


class TokenBatches(IterableDataset):
    """One rank's share of each global batch: (inputs, targets), int64 (B, T) each, without end."""

    def __init__(
        self,
        data: DataConfig,
        *,
        batch_sequences: int,
        rank: int = 0,
        ranks: int = 1,
        seed: int = 0,
        consumed: int = 0,
    ) -> None:
        """Go on after `consumed` sequences of all ranks; `batch_sequences` is of all ranks, too."""
        if batch_sequences % ranks:
            raise ValueError(f"{batch_sequences} sequences do not divide among {ranks} ranks")
        self._data = data
        self._seed = seed
        self._rank = rank
        self._plan = BatchPlan(batch_sequences, ranks, 1, batch_sequences // ranks)
        self.consumed = consumed

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        size = self._plan.micro_sequences
        sequences, mixture = training_data(
            opened_sources(self._data),
            self._data,
            batch_sequences=self._plan.sequences,
            seed=self._seed,
            share=size,
        )
        batches = Batches(
            sequences,
            mixture,
            plan=self._plan,
            rank=self._rank,
            first_sequence=self.consumed,
            prefetch=self._data.prefetch_batches,
            device=torch.device("cpu"),
        )
        try:
            for batch in batches:
                (tokens,) = batch.micro_batches
                self.consumed += self._plan.sequences
                yield tokens[:, :-1], tokens[:, 1:]
        finally:
            batches.close()

    def state_dict(self) -> dict[str, int]:
        """Return what `load_state_dict` needs; the same on every rank."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where the state was taken."""
        self.consumed = state["consumed"]


if __name__ == "__main__":
    dataset = TokenBatches(DataConfig(index=sys.argv[1], sequence_tokens=64), batch_sequences=8)
    for number, (inputs, targets) in enumerate(DataLoader(dataset, batch_size=None)):
        print("batch", number, tuple(inputs.shape), inputs[0, :8].tolist(), targets[0, :8].tolist())
        if number == 2:
            break
