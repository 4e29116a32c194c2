"""Tiny engines for tests: a model that learns, the same batches for every engine, and its whole state."""

from typing import Any

import torch
from torch import Tensor, nn

from pretrain.batch import BatchPlan
from pretrain.distributed import World
from pretrain.engine import Engine
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.optim import AdamWConfig
from pretrain.zero import ZeroConfig

T = 16
# The embedding has more than the 100,000 elements up to which a parameter stays gathered at ZeRO-3.
TINY = GPTConfig(layers=2, heads=2, channels=32, context=T, vocabulary=4000, padded_vocabulary=4032)
PLAN = BatchPlan(sequences=4, ranks=1, accumulation=2, micro_sequences=2)
OPTIM = AdamWConfig(clip_norm=0.5)
RATE = 3e-3
# Every precision at every stage, but pure bf16 where nothing is sharded, which is refused.
KINDS = [(p, s) for p in ("fp32", "autocast", "bf16") for s in range(4) if (p, s) != ("bf16", 0)]
# Where the optimizer's state can be in the host's memory: elsewhere it is refused.
OFFLOADED = [(*kind, True) for kind in KINDS if kind[1] and kind != ("bf16", 2)]


def fresh_model(
    *,
    seed: int = 0,
    kind: type[GPT] = GPT,
    linear: type[nn.Linear] = nn.Linear,
    end_of_text: int | None = None,
    **changed: Any,
) -> GPT:
    model = kind(GPTConfig(**{**vars(TINY), **changed}), linear=linear, end_of_text=end_of_text)
    initialise(model, seed)
    return model


def engine(
    world: World,
    *,
    stage: int,
    precision: str = "fp32",
    model: GPT | None = None,
    buckets: int = 50_000_000,
    optim: AdamWConfig = OPTIM,
    compiled: str | bool = False,
    offload: bool = False,
) -> Engine:
    return Engine(
        model or fresh_model(),
        optim=optim,
        zero=ZeroConfig(stage=stage, reduce_bucket=buckets, gather_bucket=buckets, offload=offload),
        precision=precision,
        plan=PLAN,
        world=world,
        seed=0,
        compiled=compiled,
    )


def micro_batches(step: int) -> list[Tensor]:
    """Return the step's two micro-batches, int64 (2, T + 1): counting in a random stride, so learnable."""
    generator = torch.Generator().manual_seed(step)
    first = torch.randint(50, (4, 1), generator=generator)
    stride = torch.randint(1, 4, (4, 1), generator=generator)
    return list((first + stride * torch.arange(T + 1)).split(2))


def trained(engine: Engine, steps: int, *, first: int = 0) -> list[float]:
    """Train on; return the losses."""
    return [float(engine.train_step(micro_batches(step), RATE).loss) for step in range(first, first + steps)]


def whole_state(engine: Engine) -> dict[str, Tensor]:
    """Return a copy of every weight and moment, whole; each element must be in exactly one fragment."""
    state: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}
    shapes = {name: getattr(p, "ds_shape", p.shape) for name, p in engine._module.named_parameters()}
    for name, shape in shapes.items():
        seen[name] = torch.zeros(shape.numel(), dtype=torch.int64)
        for kind in ("weight", "exp_avg", "exp_avg_sq"):
            state[f"{kind}/{name}"] = torch.full((shape.numel(),), torch.nan)
    for fragment in engine.fragments():
        end = fragment.start + len(fragment.weight)
        seen[fragment.name][fragment.start : end] += 1
        for kind in ("weight", "exp_avg", "exp_avg_sq"):
            tensor = getattr(fragment, kind)
            assert tensor.dtype == torch.float32
            assert tensor.dim() == 1
            state[f"{kind}/{fragment.name}"][fragment.start : end] = tensor
    for name, count in seen.items():
        assert (count == 1).all(), f"{name}: an element is missing, or is there twice"
    return state


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
