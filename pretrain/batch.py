"""How a global batch, given in tokens, is cut into ranks, accumulation steps and micro-batches.

The only place that knows this arithmetic. What batch k contains never depends on the cut.
"""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class BatchConfig:
    """The size of a step for the optimizer, and of a forward for the memory."""

    tokens: int = 524_288  # of all ranks, in one optimizer step
    micro_sequences: int = 8  # the most that one forward on one rank takes
    warmup_from: int | None = None  # tokens of the first step, and by how many it grows; null begins in full
    warmup_tokens: int = 0  # of the run, until the step is full
    rows_from: int | None = None  # tokens of a row at first; see pretrain.step.lengths
    rows_warmup_tokens: int = 0  # of the run, until a row is a whole sequence

    @property
    def first_tokens(self) -> int:
        """Return the tokens of the first step, which are the fewest that the ranks must share."""
        return self.warmup_from or self.tokens

    @property
    def told(self) -> str:
        """Return the tokens of a step in words."""
        return f"{self.tokens:,}" + (f" (growing from {self.warmup_from:,})" if self.warmup_from else "")

    def __post_init__(self) -> None:
        for name in ("tokens", "micro_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"batch.{name} must be at least 1, not {getattr(self, name)}")
        for first, until in (("warmup_from", "warmup_tokens"), ("rows_from", "rows_warmup_tokens")):
            if (getattr(self, first) is None) != (getattr(self, until) == 0):
                raise ValueError(f"batch.{first} and batch.{until} go together: give both, or neither")
            if getattr(self, until) < 0:
                raise ValueError(f"batch.{until} {getattr(self, until)} is negative")
        if self.rows_from is not None and self.rows_from < 1:
            raise ValueError(f"batch.rows_from must be at least 1, not {self.rows_from}")
        if self.warmup_from is not None and not 0 < self.warmup_from <= self.tokens:
            raise ValueError(
                f"batch.warmup_from {self.warmup_from} is not between 1 and batch.tokens {self.tokens}"
            )
        if self.tokens % self.first_tokens:
            whole = round(self.tokens / self.first_tokens) * self.first_tokens
            raise ValueError(
                f"batch.tokens {self.tokens} is no multiple of batch.warmup_from {self.warmup_from}; "
                f"use {whole}"
            )


@dataclass(frozen=True)
class BatchSizes:
    """How many sequences each step takes: a pure function of the place in the order at which it begins.

    It grows by its first size, each time after an equal share of the warm-up (linearly, as GPT-3's does:
    Brown et al., 2020, appendix B).
    """

    full: int
    first: int
    warmup: int = 0  # sequences until it is full

    def at(self, sequence: int) -> int:
        """Return the size of the step that begins at number `sequence` of the order."""
        growths = self.full // self.first - 1
        if not growths or sequence >= self.warmup:
            return self.full
        return self.first * (1 + sequence * growths // self.warmup)

    def consumed(self, steps: int) -> int:
        """Return how many sequences the first `steps` steps take."""
        total = 0
        for size, count in self._growing:
            taken = min(steps, count)
            total, steps = total + taken * size, steps - taken
        return total + steps * self.full

    def steps(self, sequences: int) -> int:
        """Return the fewest steps that take so many sequences."""
        steps = 0
        for size, count in self._growing:
            taken = min(count, -(-sequences // size))
            steps, sequences = steps + taken, max(0, sequences - taken * size)
        return steps + -(-sequences // self.full)

    def in_full(self, steps: int) -> float:
        """Return how many full steps take what the first `steps` steps do; `steps` without a warm-up."""
        return steps if self.first == self.full else self.consumed(steps) / self.full

    @cached_property
    def _growing(self) -> list[tuple[int, int]]:
        """Each size below the full one, and for how many steps it lasts; every step asks."""
        found, begin, growths = [], 0, self.full // self.first - 1
        for number in range(1, growths + 1):
            end = -(-number * self.warmup // growths)  # where a step is larger
            count = max(0, -(-(end - begin) // (number * self.first)))
            found.append((number * self.first, count))
            begin += count * number * self.first
        return found


@dataclass(frozen=True)
class BatchPlan:
    """A global batch cut for one world size: sequences = ranks × accumulation × micro_sequences."""

    sequences: int  # of a full batch
    ranks: int
    accumulation: int  # in a full batch
    micro_sequences: int
    first_sequences: int | None = None  # of the first batch, if it is not full
    warmup_sequences: int = 0

    @cached_property
    def sizes(self) -> BatchSizes:
        """Return how the batch grows."""
        return BatchSizes(self.sequences, self.first_sequences or self.sequences, self.warmup_sequences)


def batch_sizes(config: BatchConfig, sequence_tokens: int) -> BatchSizes:
    """Return how the batch grows, in whole sequences; `plan_batch` refuses what is not whole."""
    full, first = (max(1, tokens // sequence_tokens) for tokens in (config.tokens, config.first_tokens))
    return BatchSizes(full, first, config.warmup_tokens // sequence_tokens)


def plan_batch(config: BatchConfig, *, sequence_tokens: int, ranks: int) -> BatchPlan:
    """Return the cut with the largest micro-batch that the limit allows.

    Raises ValueError, naming the nearest token counts that work, if the batch does not factor.
    """
    share = sequence_tokens * ranks
    for name, tokens in (("tokens", config.tokens), ("warmup_from", config.first_tokens)):
        if tokens % share:
            below, above = tokens // share * share, (tokens // share + 1) * share
            nearest = f"{below} or {above}" if below else f"{above}"
            raise ValueError(
                f"batch.{name} {tokens} does not divide among {ranks} ranks × sequences of {sequence_tokens} "
                f"tokens; use {nearest}"
            )
    sizes = batch_sizes(config, sequence_tokens)
    # What divides the first batch divides every other; one shape of all forwards is one compiled graph.
    per_rank = sizes.first // ranks
    micro = max(size for size in range(1, min(config.micro_sequences, per_rank) + 1) if per_rank % size == 0)
    cut = (sizes.full, ranks, sizes.full // ranks // micro, micro)
    return BatchPlan(*cut, None if sizes.first == sizes.full else sizes.first, sizes.warmup)
