"""How long the rows are in which the first tokens of a run are trained.

Long sequences make the first steps of a large batch unstable, and their attention costs the most before the
model knows anything worth attending to (Li et al., 2021, "The Stability-Efficiency Dilemma", which cuts rows
off). Here each sequence is folded into shorter rows instead, so that no token is lost, a step has as many,
and the order of the data is what it is without.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RowLengths:
    """The length of a row by the place in the run: it doubles, after equal shares of the warm-up."""

    full: int  # data.sequence_tokens
    first: int
    warmup_tokens: int = 0  # of the run, until rows are whole sequences

    def __post_init__(self) -> None:
        times = self.full // self.first
        if self.first * times != self.full or times & (times - 1):
            halves = [self.full >> power for power in range(1, self.full.bit_length())]
            whole = [str(half) for power, half in enumerate(halves, 1) if half << power == self.full]
            ways = f"use {' or '.join(whole[:4])}" if whole else "leave it out"
            raise ValueError(
                f"batch.rows_from {self.first} is not data.sequence_tokens {self.full} halved; {ways}"
            )

    def at(self, tokens: int) -> int:
        """Return the length of the rows of a step that begins after so many tokens of the run."""
        doublings = (self.full // self.first).bit_length() - 1
        if not doublings or tokens >= self.warmup_tokens:
            return self.full
        return self.first << (tokens * doublings // self.warmup_tokens)


def folded(micro_batch: Tensor, length: int) -> Tensor:
    """Return int64 (B · T / length, length + 1) from (B, T + 1): each row ends with the next one's first."""
    return micro_batch.unfold(1, length + 1, length).flatten(0, 1)
