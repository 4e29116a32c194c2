"""Compare a training step on a CPU with nanoGPT's, with plain torch's and with default DeepSpeed's.

usage: OMP_NUM_THREADS=1 python benchmarks/step.py NANOGPT [--steps 50] [--eager] [--tiny]

NANOGPT is a clone of karpathy/nanoGPT. Each contender is a process of its own; they take turns at every step,
so that a busy machine is busy for all of them. The CPU seconds of the process are counted, and the median is
shown. All begin with the same weights and see the same tokens, so the losses after the last step must agree.
The first table sets our engine beside a plain loop of torch around the same model, at the size of
experiment=demo: what DeepSpeed costs. The second has everybody. Ours tells the C library to keep what it
frees, as the trainer does (pretrain.step.heap); in the first table the plain loop does, too.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import contenders
import torch
from record import write
from torch import Tensor

from pretrain.batch import BatchPlan
from pretrain.distributed import World, joined
from pretrain.model import GPTConfig
from pretrain.step.heap import keep_freed_memory

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
    pair = {
        "plain torch": Contender("plain", {}, keeps_memory=True),
        "ours": Contender("ours", {"precision": "fp32", "compiled": False}, keeps_memory=True),
    }
    second = _compared(pair, demo, _DEMO_PLAN, max(_WARM_UP + 5, given.steps // 2))
    _print(second, "plain torch")
    ours = {
        f"ours, {precision}{', compiled' if compiled else ''}": Contender(
            "ours", {"precision": precision, "compiled": compiled}, keeps_memory=True
        )
        for precision in ("fp32", "autocast")
        for compiled in ((False,) if given.eager else (False, True))
    }
    first = _compared({**_others(given.nanogpt, eager=given.eager), **ours}, shape, _PLAN, given.steps)
    _print(first, "nanoGPT, fp32")
    if not given.tiny:
        content = {"kind": "step_cpu", "seed": 0, "steps": given.steps, "step": first, "deepspeed": second}
        print(write("step_cpu", content))


@dataclass(frozen=True)
class Contender:
    """A function of benchmarks/contenders.py, and what it is given beside the shape."""

    kind: str
    options: dict[str, Any]
    keeps_memory: bool = False

    def step(self, shape: GPTConfig, plan: BatchPlan, world: World) -> contenders.Step:
        """Build the contender in this process."""
        where: dict[str, Any] = {
            "ours": {"plan": plan, "world": world},
            "default_deepspeed": {"plan": plan, "device": world.device},
        }.get(self.kind, {"device": world.device})
        return getattr(contenders, self.kind)(shape=shape, **where, **self.options)


def _others(path: Path, *, eager: bool) -> dict[str, Contender]:
    compiled = (
        {} if eager else {"nanoGPT, fp32, compiled": Contender("nanogpt", {"path": path, "compiled": True})}
    )
    return {
        "nanoGPT, fp32": Contender("nanogpt", {"path": path, "compiled": False}),
        **compiled,
        "plain torch, our model, fp32": Contender("plain", {}),
        "default DeepSpeed, nanoGPT's model, fp32": Contender(
            "default_deepspeed", {"path": path, "bf16": False}
        ),
    }


def _take_steps(pipe: Connection, contender: Contender, shape: GPTConfig, plan: BatchPlan) -> None:
    """Take a step for every number that comes; answer with its CPU seconds and its loss."""
    if contender.keeps_memory:
        keep_freed_memory()
    with joined() as world:
        step = contender.step(shape, plan, world)
        while (number := pipe.recv()) is not None:
            batch = _batch(number, shape, plan)
            started = time.process_time()
            loss = float(step(batch, _RATE))
            pipe.send((time.process_time() - started, loss))


def _compared(
    entered: dict[str, Contender], shape: GPTConfig, plan: BatchPlan, number: int
) -> list[dict[str, object]]:
    """Return, for every contender, the median of its CPU seconds per step and its last loss."""
    seconds: dict[str, list[float]] = {name: [] for name in entered}
    losses: dict[str, float] = {}
    spawn = multiprocessing.get_context("spawn")
    pipes = {name: spawn.Pipe() for name in entered}
    processes = [
        spawn.Process(target=_take_steps, args=(pipes[name][1], each, shape, plan), daemon=True)
        for name, each in entered.items()
    ]
    for process in processes:
        process.start()
    for _, theirs in pipes.values():
        theirs.close()  # so that one that dies is an end of file here, and not a wait
    for count in range(number):
        for name, (pipe, _) in pipes.items():
            pipe.send(count)
            taken, losses[name] = pipe.recv()
            seconds[name].append(taken)
        print(f"step {count + 1} of {number}", end="\r", file=sys.stderr, flush=True)
    for (pipe, _), process in zip(pipes.values(), processes, strict=True):
        pipe.send(None)
        process.join()
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
