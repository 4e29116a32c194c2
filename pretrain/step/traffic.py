"""How many bytes the ranks reduce and gather in one optimizer step, at each ZeRO stage. Pure.

As DeepSpeed 0.19.8 does it with our settings; what real steps of two ranks send is counted in the tests and
in benchmarks/traffic.py. A ring moves, over each rank's link, 2 (n - 1) / n of a reduced tensor's bytes and
(n - 1) / n of a gathered or scattered one's.
"""

from typing import NamedTuple


class Traffic(NamedTuple):
    """Sizes of what takes part in each kind of collective, bytes per step; not what a link carries."""

    all_reduce: int
    all_gather: int
    reduce_scatter: int

    def link_bytes(self, ranks: int) -> float:
        """Return the bytes that a ring sends over each rank's link."""
        share = (ranks - 1) / ranks
        return share * (2 * self.all_reduce + self.all_gather + self.reduce_scatter)


def traffic(
    stage: int, *, elements: int, accumulation: int, gradient_bytes: int, weight_bytes: int
) -> Traffic:
    """Return what a step of `accumulation` micro-batches sends for a model of so many padded `elements`.

    Gradients travel in `gradient_bytes` an element (bf16: 2, fp32: 4), weights in `weight_bytes`. Stage 1
    reduces once a step, stage 2 in every micro-batch. Stage 3 gathers every weight for each forward and each
    backward pass: an upper bound, as small ones stay and DeepSpeed keeps what it will need soon.
    """
    gradients, weights = gradient_bytes * elements, weight_bytes * elements
    if stage == 0:
        return Traffic(gradients, 0, 0)
    if stage == 1:
        return Traffic(gradients, weights, 0)
    if stage == 2:
        return Traffic(accumulation * gradients, weights, 0)
    return Traffic(0, 2 * accumulation * weights, accumulation * gradients)
