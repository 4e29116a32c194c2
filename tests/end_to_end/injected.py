"""Poison gradients and flip bits on one rank, in every stage and precision; print what happened.

One line of JSON per rank and injection, for the test that starts this program on two ranks.
"""

import hashlib
import json
import math
import random
import sys
from pathlib import Path

import torch

from conf.exits import CorruptError
from pretrain.batch import BatchConfig, plan_batch
from pretrain.distributed import World, joined
from pretrain.engine import Engine
from pretrain.health import Health, HealthConfig
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.optim import AdamWConfig
from pretrain.zero import ZeroConfig

TOKENS, VOCABULARY = 16, 97
CASES = [
    (stage, precision)
    for stage in range(4)
    for precision in ("fp32", "bf16", "autocast")
    if (stage, precision) != (0, "bf16")  # refused by the config
]


class Poisonable(GPT):
    factor = 1.0

    def forward(self, *arguments, **named):
        return super().forward(*arguments, **named) * self.factor


def main(directory: Path, seed: int, flips: int) -> None:
    generator = random.Random(seed)
    with joined() as world:
        for stage, precision in CASES:
            engine, model = built(world, stage, precision)
            step(engine, model, 1.0)
            for rank in range(world.size):
                for factor in (math.nan, math.inf):
                    poison(engine, model, world, rank, factor, stage=stage, precision=precision)
            health = Health(HealthConfig(), world, directory)
            for _ in range(flips):
                flip(engine, health, world, generator, stage=stage, precision=precision)
            engine.close()


def built(world: World, stage: int, precision: str) -> tuple[Engine, Poisonable]:
    model = Poisonable(GPTConfig(layers=2, heads=2, channels=16, context=TOKENS, vocabulary=VOCABULARY))
    initialise(model, 1)
    batch = BatchConfig(tokens=4 * TOKENS, micro_sequences=1)  # so that one micro-batch of two is poisoned
    plan = plan_batch(batch, sequence_tokens=TOKENS, ranks=world.size)
    optim, zero = AdamWConfig(), ZeroConfig(stage=stage)
    return Engine(model, optim=optim, zero=zero, precision=precision, plan=plan, world=world, seed=1), model


def step(engine: Engine, model: Poisonable, factor: float):
    tokens = torch.randint(VOCABULARY, (2, TOKENS + 1), generator=torch.Generator().manual_seed(engine.step))
    model.factor = factor
    return engine.train_step(list(tokens.split(1)), 1e-3)


def state(engine: Engine) -> str:
    digest = hashlib.sha256()
    for fragment in engine.fragments():
        for tensor in (fragment.weight, fragment.exp_avg, fragment.exp_avg_sq):
            digest.update(tensor.contiguous().numpy().tobytes())
    # A skipped step leaves the copies of stage 3 released, to be gathered again by the next forward pass.
    for _, tensor in engine.replicated() if engine.stage < 3 else ():
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def poison(engine, model, world, rank, factor, **case) -> None:
    before, adam_steps = state(engine), engine.adam_steps
    bad = step(engine, model, factor if world.rank == rank else 1.0)
    kept = state(engine) == before and engine.adam_steps == adam_steps
    good = step(engine, model, 1.0)
    went_on = not good.skipped and state(engine) != before and engine.adam_steps == adam_steps + 1
    finite = math.isfinite(float(good.gradient_norm))
    say(
        world,
        injection=str(factor),
        at=rank,
        skipped=bool(bad.skipped),
        kept=kept,
        went_on=went_on and finite,
        **case,
    )


def flip(engine, health, world, generator, **case) -> None:
    """Flip any bit of anything that is replicated, on one rank; all ranks draw the same place."""
    held = list(engine.replicated())
    rank, (name, tensor) = generator.randrange(world.size), generator.choice(held)
    element, bit = generator.randrange(tensor.numel()), generator.randrange(8 * tensor.element_size())
    health.check_equal(engine.replicated(), engine.step)
    if world.rank == rank:
        turn(tensor, element, bit)
    try:
        health.check_equal(engine.replicated(), engine.step)
        said = ""
    except CorruptError as error:
        said = str(error)
    if world.rank == rank:
        turn(tensor, element, bit)
    say(world, injection="flip", at=rank, name=name, element=element, bit=bit, said=said, **case)


def turn(tensor: torch.Tensor, element: int, bit: int) -> None:
    data = tensor.view(-1)[element : element + 1].view(torch.uint8)
    data[bit // 8] ^= 1 << bit % 8


def say(world: World, **facts) -> None:
    # In one write: the ranks share a pipe, and an unbuffered end goes apart.
    print(json.dumps({"rank": world.rank, **facts}) + "\n", end="", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
