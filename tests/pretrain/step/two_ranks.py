"""What two ranks do in a step at each ZeRO stage: calls, waits, bytes by collective; and a shared clip.

Prints one line of JSON on each rank for every case, for the test that starts this program twice.
"""

import gc
import json
import sys
from pathlib import Path

import torch
from torch import nn

from pretrain.batch import BatchPlan
from pretrain.distributed import World, joined
from pretrain.engine import Engine
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.optim import AdamWConfig
from pretrain.step.clipping import Clipping
from pretrain.zero import ZeroConfig

sys.path.insert(0, str(Path(__file__).parent))
from counting import Calls, update_calls

MODEL = GPTConfig(layers=2, heads=2, channels=32, context=16, vocabulary=4000, padded_vocabulary=4032)
PLAN = BatchPlan(sequences=8, ranks=2, accumulation=2, micro_sequences=2)
CASES = [(0, "fp32"), (1, "fp32"), (1, "bf16"), (1, "autocast"), (2, "fp32"), (3, "fp32")]


def main() -> None:
    with joined() as world:
        clip(world)
        for stage, precision in CASES:
            step(world, stage, precision)
            gc.collect()  # a DeepSpeed engine waits for the device when it goes; not in the next case


def clip(world: World) -> None:
    """Clip a gradient of which each rank holds a half, and the whole one with torch."""
    gradient = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    whole = nn.Parameter(torch.zeros(1000))
    whole.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_([whole], 0.5)
    mine = slice(world.rank * 500, world.rank * 500 + 500)
    half = nn.Parameter(torch.zeros(500))
    half.grad = gradient[mine].clone()
    optimizer = torch.optim.AdamW([half], fused=True)
    tamed = Clipping(optimizer, 0.5, shared=True).tame([half.grad])
    optimizer.step()
    error = (optimizer.state[half]["exp_avg"] / (0.1 * whole.grad[mine]) - 1).abs().max()
    say(world, clip_error=float(error), norm_error=float(tamed.norm / gradient.norm() - 1))


def step(world: World, stage: int, precision: str) -> None:
    model = GPT(MODEL)
    initialise(model, 0)
    zero = ZeroConfig(stage=stage)
    engine = Engine(
        model, optim=AdamWConfig(), zero=zero, precision=precision, plan=PLAN, world=world, seed=0
    )
    chance = torch.Generator().manual_seed(world.rank)
    batch = list(torch.randint(4000, (4, 17), generator=chance).split(2))
    engine.train_step(batch, 1e-3)
    update, waits = update_calls(engine, batch, 1e-3)
    with Calls() as whole:
        engine.train_step(batch, 1e-3)
    say(
        world,
        stage=stage,
        precision=precision,
        calls=update.computing.total(),
        names=dict(update.computing),
        waits=update.waits + waits,
        collective_bytes=dict(whole.collective_bytes),
        elements=sum(p.ds_numel if stage == 3 else p.numel() for p in model.parameters()),
    )
    engine.close()


def say(world: World, **facts: object) -> None:
    # In one write: the ranks share a pipe, and an unbuffered end goes apart.
    print(json.dumps({"rank": world.rank, **facts}) + "\n", end="", flush=True)


if __name__ == "__main__":
    main()
