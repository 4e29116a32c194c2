"""What ZeRO cuts among the ranks: the settings, and the stage that they come to in a world of a given size.

Rajbhandari et al., 2020. Stage 1 cuts the optimizer's state, 2 the gradients, too, 3 the parameters, too.
"""

from dataclasses import dataclass

STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class ZeroConfig:
    """What DeepSpeed shards among the ranks, and how it talks."""

    stage: int = 1  # 0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters
    overlap: bool = True  # reduce gradients while the backward pass goes on
    reduce_bucket: int = 50_000_000  # elements; DeepSpeed's 5e8 is more than a 124M model: no overlap
    gather_bucket: int = 200_000_000  # elements
    offload: bool = False  # optimizer state, and its update, in the host's memory

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"zero.stage {self.stage} is not one of {', '.join(map(str, STAGES))}")
        if self.offload and not self.stage:
            raise ValueError("zero.offload=true needs a stage that cuts; use zero=stage1")
        for name in ("reduce_bucket", "gather_bucket"):
            if getattr(self, name) < 1:
                raise ValueError(f"zero.{name} must be at least 1, not {getattr(self, name)}")


def stage_among(ranks: int, stage: int, precision: str, *, offload: bool = False) -> int:
    """Return the stage that serves `stage` best among so many ranks: one rank alone cuts nothing.

    There stages 1 and 2 would keep a second copy of the weights, and pass every gradient through a bucket.
    Pure bf16 needs that copy, which is in fp32, and so does offload; stage 3 is left as it is.
    """
    return 0 if ranks == 1 and stage < 3 and precision != "bf16" and not offload else stage
