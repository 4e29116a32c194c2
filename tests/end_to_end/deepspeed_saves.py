"""Save with DeepSpeed's own save_checkpoint, twice, the second time with rank 1's storage slow.

    deepspeed_saves.py DIRECTORY SECONDS    SECONDS is what rank 1's files take at step 6

Goes on from whatever DeepSpeed's load_checkpoint finds, and prints the step.
"""

import sys
import time

import deepspeed
import torch

from pretrain.distributed import joined
from pretrain.engine import _join_deepspeed

STEPS, SAVE_EVERY = 6, 3
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 1.0,
    "zero_optimization": {"stage": 1},
    "log_level": "WARNING",
}


def main(directory: str, slow_seconds: float) -> None:
    with joined() as world:
        _join_deepspeed(world)
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        engine = deepspeed.initialize(model=model, optimizer=optimizer, config=CONFIG)[0]
        engine.load_checkpoint(directory)
        print(f"step {engine.global_steps}", flush=True)
        while engine.global_steps < STEPS:
            loss = engine(torch.ones(1, 8)).square().mean()
            engine.backward(loss)
            engine.step()
            if engine.global_steps % SAVE_EVERY == 0:
                if engine.global_steps == STEPS and world.rank == 1:
                    slow_down(slow_seconds)
                engine.save_checkpoint(directory)


def slow_down(seconds: float) -> None:
    original = torch.save

    def save(*arguments, **named):
        time.sleep(seconds)
        return original(*arguments, **named)

    torch.save = save


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
