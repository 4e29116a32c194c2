"""How a global batch, given in tokens, is cut into ranks, accumulation steps and micro-batches.

The only place that knows this arithmetic. What batch k contains never depends on the cut.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchConfig:
    """The size of a step for the optimizer, and of a forward for the memory."""

    tokens: int = 524_288  # of all ranks, in one optimizer step
    micro_sequences: int = 8  # the most that one forward on one rank takes

    def __post_init__(self) -> None:
        for name in ("tokens", "micro_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"batch.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class BatchPlan:
    """A global batch cut for one world size: sequences = ranks × accumulation × micro_sequences."""

    sequences: int
    ranks: int
    accumulation: int
    micro_sequences: int


def plan_batch(config: BatchConfig, *, sequence_tokens: int, ranks: int) -> BatchPlan:
    """Return the cut with the largest micro-batch that the limit allows.

    Raises ValueError, naming the nearest token counts that work, if the batch does not factor.
    """
    share = sequence_tokens * ranks
    if config.tokens % share:
        below, above = config.tokens // share * share, (config.tokens // share + 1) * share
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"batch.tokens {config.tokens} does not divide among {ranks} ranks × sequences of "
            f"{sequence_tokens} tokens; use {nearest}"
        )
    per_rank = config.tokens // share
    micro = max(size for size in range(1, min(config.micro_sequences, per_rank) + 1) if per_rank % size == 0)
    return BatchPlan(per_rank * ranks, ranks, per_rank // micro, micro)
