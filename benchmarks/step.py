"""Compare a training step on a CPU with nanoGPT's, with plain torch's and with default DeepSpeed's.

usage: OMP_NUM_THREADS=1 python benchmarks/step.py NANOGPT [--steps 50] [--eager] [--tiny]

NANOGPT is a clone of karpathy/nanoGPT. The contenders take turns at every step, in one process, so that a
busy machine is busy for all of them; the CPU seconds of the process are counted, and the median is shown. All
begin with the same weights and see the same tokens, so the losses after the last step must agree. The first
table sets our engine beside a plain loop of torch around the same model, at the size of experiment=demo:
what DeepSpeed costs. The second has everybody.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import contenders
import torch
from record import write
from torch import Tensor

from pretrain.batch import BatchPlan
from pretrain.distributed import World, joined
from pretrain.model import GPTConfig

_WARM_UP = 5  # steps that are not counted: compiling, first allocations
_RATE = 1e-3
# The widths at which a head over 50,257 tokens takes its usual place beside the blocks.
_SHAPE = GPTConfig(layers=4, heads=4, channels=128, context=64)
_PLAN = BatchPlan(sequences=12, ranks=1, accumulation=1, micro_sequences=12)
_DEMO = GPTConfig(layers=4, heads=4, channels=128, context=128)
_DEMO_PLAN = BatchPlan(sequences=32, ranks=1, accumulation=4, micro_sequences=8)
_TINY = GPTConfig(layers=2, heads=2, channels=32, context=16, vocabulary=200, padded_vocabulary=256)


def main() -> None:
    """Print both tables and write benchmarks/results/step_cpu.json."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("nanogpt", type=Path)
    asked.add_argument("--steps", type=int, default=50)
    asked.add_argument("--eager", action="store_true", help="leave out what must be compiled first")
    asked.add_argument("--tiny", action="store_true", help="only to see that everything runs")
    given = asked.parse_args()
    shape = _TINY if given.tiny else _SHAPE
    demo = _TINY if given.tiny else _DEMO
    with joined() as world:
        pair = {
            "plain torch": contenders.plain(demo, world.device),
            "ours": contenders.ours(demo, _DEMO_PLAN, world, precision="fp32", compiled=False),
        }
        second = _compared(pair, demo, _DEMO_PLAN, max(_WARM_UP + 5, given.steps // 2))
        _print(second, "plain torch")
        ours = {
            f"ours, {precision}{', compiled' if compiled else ''}": contenders.ours(
                shape, _PLAN, world, precision=precision, compiled=compiled
            )
            for precision in ("fp32", "autocast")
            for compiled in ((False,) if given.eager else (False, True))
        }
        others = _others(given.nanogpt, shape, world, eager=given.eager)
        first = _compared({**others, **ours}, shape, _PLAN, given.steps)
        _print(first, "nanoGPT, fp32")
    if not given.tiny:
        content = {"kind": "step_cpu", "seed": 0, "steps": given.steps, "step": first, "deepspeed": second}
        print(write("step_cpu", content))


def _others(path: Path, shape: GPTConfig, world: World, *, eager: bool) -> dict[str, contenders.Step]:
    device = world.device
    compiled = (
        {} if eager else {"nanoGPT, fp32, compiled": contenders.nanogpt(path, shape, device, compiled=True)}
    )
    return {
        "nanoGPT, fp32": contenders.nanogpt(path, shape, device, compiled=False),
        **compiled,
        "plain torch, our model, fp32": contenders.plain(shape, device),
        "default DeepSpeed, nanoGPT's model, fp32": contenders.default_deepspeed(
            path, shape, _PLAN, device, bf16=False
        ),
    }


def _compared(
    steps: dict[str, contenders.Step], shape: GPTConfig, plan: BatchPlan, number: int
) -> list[dict[str, object]]:
    """Return, for every contender, the median of its CPU seconds per step and its last loss."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, float] = {}
    for count in range(number):
        batch = _batch(count, shape, plan)
        for name, step in steps.items():
            started = time.process_time()
            losses[name] = float(step(batch, _RATE))
            seconds[name].append(time.process_time() - started)
        print(f"step {count + 1} of {number}", end="\r", file=sys.stderr, flush=True)
    return [
        {
            "name": name,
            "cpu_seconds": statistics.median(found[_WARM_UP:]),
            "fastest": min(found[_WARM_UP:]),
            "loss": losses[name],
        }
        for name, found in seconds.items()
    ]


def _batch(step: int, shape: GPTConfig, plan: BatchPlan) -> list[Tensor]:
    """Return a step's micro-batches, int64 (B, T + 1): words whose frequency falls as in a language."""
    chance = torch.Generator().manual_seed(step)
    uniform = torch.rand(plan.sequences, shape.context + 1, generator=chance)
    ranks = (shape.vocabulary**uniform).long() - 1  # density 1 / rank: Zipf's law
    return list(ranks.clamp(0, shape.vocabulary - 1).split(plan.micro_sequences))


def _print(rows: list[dict[str, object]], reference: str) -> None:
    first = next(float(str(row["cpu_seconds"])) for row in rows if row["name"] == reference)
    loss = next(float(str(row["loss"])) for row in rows if row["name"] == reference)
    sys.stdout.flush()
    print(f"{'':42} {'CPU s':>8} {'speed':>6} {'loss':>9} {'apart':>8}")
    for row in rows:
        own, seconds = float(str(row["loss"])), float(str(row["cpu_seconds"]))
        print(f"{row['name']:42} {seconds:8.4f} {first / seconds:6.2f} {own:9.4f} {own - loss:8.4f}")


if __name__ == "__main__":
    main()
