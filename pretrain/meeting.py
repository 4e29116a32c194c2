"""Whether the ranks of a launch can meet: each joins the process group, and their ones add up.

    torchrun --standalone --nproc-per-node 8 -m pretrain.meeting          on one machine
    srun … python -m pretrain.meeting                                     on several

Rank 0 prints one line. On GPUs the sum travels over NCCL, as gradients do.
"""

import time
from datetime import timedelta

import torch
import torch.distributed as dist

from pretrain.distributed import joined

# Long enough for a slow interconnect to be found, short enough for a person to wait.
_PATIENCE = timedelta(minutes=2)


def main() -> None:
    """Meet, add up, and say how long it took."""
    began = time.monotonic()
    with joined(_PATIENCE) as world:
        one = torch.ones(1, device=world.device)
        dist.all_reduce(one)
        total = int(one.item())
        assert total == world.size, f"{world.size} ranks added up to {total}"
        if world.primary:
            backend = dist.get_backend()
            print(f"{world.size} ranks met over {backend} in {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
