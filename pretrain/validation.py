"""The validation loss: mean nats per token over a fixed set of sequences, the same on any number of ranks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from data_prep.tokenizer import load_tokenizer
from pretrain.cross_entropy import IGNORED
from pretrain.distributed import World, summed
from pretrain.stream.sequences import Sequences
from pretrain.stream.sources import DataConfig, Source, blocks_of


@dataclass(frozen=True)
class ValidationConfig:
    """How often the validation loss is taken, and over how much text."""

    every: int = 250  # steps; 0 is only at the end
    tokens: int = 10_485_760  # at most; as many as llm.c's 20 batches of 0.5M
    micro_sequences: int = 8
    patience: int | None = None  # validations in a row that are no better than the best; then the run ends

    def __post_init__(self) -> None:
        if self.patience is not None and (self.patience < 1 or self.every == 0):
            raise ValueError(
                f"validation.patience {self.patience} with validation.every {self.every}: give at least 1 of "
                "both, or patience null to train to the last step"
            )
        if self.every < 0:
            raise ValueError(f"validation.every {self.every} is negative; 0 validates only at the end")
        for name in ("tokens", "micro_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"validation.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class SourceScore:
    """What one source of a mixture has been found to be."""

    loss: float  # nats per token
    bits_per_byte: float
    tokens: int


class Validation:
    """The fixed sequences of one run: the first of the validation split, in the order of the shards."""

    def __init__(self, sequences: Sequences, config: ValidationConfig, sequence_tokens: int) -> None:
        self._sequences = sequences
        self._tokens = sequence_tokens
        self._bytes = 0.0  # of the targets' text; known once they have been read
        self._micro = config.micro_sequences
        self.count = min(len(sequences), math.ceil(config.tokens / sequence_tokens))
        rows = sequences.rows_per_block
        self._places = [(block, row) for block in range(len(rows)) for row in range(rows[block])][
            : self.count
        ]

    @property
    def by_source(self) -> dict[str, SourceScore]:
        """Return nothing: there is one source."""
        return {}

    @property
    def tokens(self) -> int:
        """Return how many targets are scored."""
        return self.count * self._tokens

    def loss(self, loss_sum: Callable[[Tensor, Tensor], Tensor], world: World) -> float:
        """Return the mean cross-entropy in nats per token over all ranks' shares.

        `loss_sum(inputs, targets)` scores int64 (B, T) tensors. Every rank makes the same number
        of calls, the last ones with ignored targets if need be: at ZeRO-3 a forward is collective.
        """
        share = math.ceil(self.count / world.size)
        mine = self._places[world.rank * share : (world.rank + 1) * share]
        total, size, lengths = 0.0, 0, _byte_lengths()
        for first in range(0, share, self._micro):
            read = self._micro_batch(mine[first : first + self._micro])
            targets = read[:, 1:].numpy()
            size += int(lengths[targets[targets != IGNORED]].sum())
            tokens = read.to(world.device)
            total += float(loss_sum(tokens[:, :-1].clamp(min=0), tokens[:, 1:]))
        total, self._bytes = summed(world, total, size)
        return total / self.tokens

    def bits_per_byte(self, loss: float) -> float:
        """Return a loss that `loss` has returned in bits per byte of text, whatever its tokens are.

        An end-of-text costs bits and has no byte.
        """
        return loss * self.tokens / math.log(2) / max(1.0, self._bytes)

    def _micro_batch(self, places: list[tuple[int, int]]) -> Tensor:
        """Return int64 (B, T + 1), filled up with IGNORED so that the shape never changes."""
        tokens = torch.full((self._micro, self._tokens + 1), IGNORED, dtype=torch.int64)
        for number, place in enumerate(places):
            tokens[number] = torch.from_numpy(self._sequences.row(*place).astype(np.int64))
        return tokens


class MixedValidation:
    """The validation of a mixture: of each source by itself, and their mean by weight."""

    def __init__(self, sources: Mapping[str, tuple[float, Validation]]) -> None:
        """Take (weight, validation) of each source that has a validation split, by name."""
        self._sources = sources
        self.by_source: dict[str, SourceScore] = {}  # as last found

    @property
    def tokens(self) -> int:
        """Return how many targets are scored."""
        return sum(validation.tokens for _, validation in self._sources.values())

    def loss(self, loss_sum: Callable[[Tensor, Tensor], Tensor], world: World) -> float:
        """Return the mean of the sources' losses, weighted as they are in training; see Validation.loss."""
        for name, (_, each) in self._sources.items():
            loss = each.loss(loss_sum, world)
            self.by_source[name] = SourceScore(loss, each.bits_per_byte(loss), each.tokens)
        return self._mean({name: each.loss for name, each in self.by_source.items()})

    def bits_per_byte(self, _: float) -> float:
        """Return the mean of the sources' bits per byte, weighted alike, of the losses last taken."""
        return self._mean({name: each.bits_per_byte for name, each in self.by_source.items()})

    def _mean(self, values: Mapping[str, float]) -> float:
        total = sum(weight for weight, _ in self._sources.values())
        return sum(values[name] * weight for name, (weight, _) in self._sources.items()) / total


def opened_validation(
    sources: Sequence[Source],
    data: DataConfig,
    config: ValidationConfig,
    *,
    say: Callable[[str], None],
    split: str = "validation",
) -> Validation | MixedValidation | None:
    """Return the validation of what a run reads, and say which sources have no whole sequence for it.

    None if none has. Raises DatasetError if there is no such split.
    """
    found = {}
    for source in sources:
        blocks = blocks_of(source.index, data.fetch)
        sequences = Sequences(source.index, split, data.sequence_tokens, cached_blocks=2, blocks=blocks)
        if len(sequences):
            found[source.name] = (source.weight, Validation(sequences, config, data.sequence_tokens))
        else:
            of = f" of {source.name}" if len(sources) > 1 else ""
            say(f"no {split} loss{of}: the data set's {split} split holds no whole sequence")
    if len(sources) > 1 and found:
        return MixedValidation(found)
    return next((validation for _, validation in found.values()), None)


@cache
def _byte_lengths() -> np.ndarray:
    """Return the bytes that each token stands for, int64 (V,)."""
    return load_tokenizer().byte_lengths()
