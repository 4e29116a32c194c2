"""Time one contender on one device and print one line of JSON; gpu.py starts this program for each.

A process of its own: what one contender leaves in memory, or breaks, is not the next one's.
"""

import argparse
import json
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import contenders
import torch
from omegaconf import OmegaConf
from torch import Tensor

from conf import DIRECTORY
from pretrain.batch import BatchPlan
from pretrain.distributed import World, joined
from pretrain.model import GPTConfig

_WINDOW = 5  # steps between two waits for the device
_TINY = GPTConfig(layers=2, heads=2, channels=32, context=16, vocabulary=200, padded_vocabulary=256)
_LOSS_STEPS = 50
_RATE = 3e-4


def main() -> None:
    """Run what the command line asks for."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("contender", choices=("ceilings", "ours", "ours_fp8", "nanogpt", "deepspeed"))
    asked.add_argument("--model", default="gpt2_124m")
    asked.add_argument("--micro", type=int, default=8)
    asked.add_argument("--accumulation", type=int, default=1)
    asked.add_argument("--windows", type=int, default=4)
    asked.add_argument("--nanogpt", type=Path)
    given = asked.parse_args()
    with joined() as world:
        if given.contender == "ceilings":
            print(json.dumps(ceilings(world.device)))
            return
        shape = shape_of(given.model)
        plan = BatchPlan(given.micro * given.accumulation, 1, given.accumulation, given.micro)
        step = _step(given.contender, shape, plan, world, given.nanogpt)
        print(json.dumps({**timed(step, shape, plan, world.device, given.windows), "shape": asdict(shape)}))


def shape_of(name: str) -> GPTConfig:
    """Return the shape of a file of conf/model, or the tiny one."""
    if name == "tiny":
        return _TINY
    raw: Any = OmegaConf.to_container(OmegaConf.load(DIRECTORY / "model" / f"{name}.yaml"))
    return GPTConfig(**raw)


def _step(
    contender: str, shape: GPTConfig, plan: BatchPlan, world: World, nanogpt: Path | None
) -> contenders.Step:
    gpu = world.device.type == "cuda"
    if contender in ("ours", "ours_fp8"):
        fp8 = contender == "ours_fp8"
        return contenders.ours(shape, plan, world, precision="autocast", compiled=gpu, fp8=fp8)
    if contender == "deepspeed":
        return contenders.transformers_deepspeed(shape, plan, world.device)
    assert nanogpt is not None, "nanoGPT needs --nanogpt PATH"
    return contenders.nanogpt(nanogpt, shape, world.device, compiled=gpu, autocast=True)


def timed(
    step: contenders.Step, shape: GPTConfig, plan: BatchPlan, device: torch.device, windows: int
) -> dict[str, Any]:
    """Return seconds per step of every window, the loss of the last equal step, memory, and clocks.

    Everything is in it: clipping, optimizer, the batch's way from pinned memory, the loss's way back.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, loss = [], torch.zeros(())
    steps = (2 + windows) * _WINDOW
    started = time.perf_counter()
    for number in range(steps):
        loss = step(batch(number, shape, plan, device), _RATE)
        if (number + 1) % _WINDOW == 0:
            float(loss)
            seconds.append((time.perf_counter() - started) / _WINDOW)
            started = time.perf_counter()
    return {
        "seconds_per_step": seconds[2:],
        "tokens_per_step": plan.sequences * shape.context,
        "loss": float(loss),
        "steps": steps,
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None,
        "clocks": _clocks(),
    }


def batch(number: int, shape: GPTConfig, plan: BatchPlan, device: torch.device) -> list[Tensor]:
    """Return a step's micro-batches, int64 (B, T + 1), of Zipf's words, copied as a run copies them."""
    chance = torch.Generator().manual_seed(number % _LOSS_STEPS)
    uniform = torch.rand(plan.sequences, shape.context + 1, generator=chance)
    words = (shape.vocabulary**uniform).long().clamp(1, shape.vocabulary) - 1
    tokens = words.to(torch.uint16)
    if device.type == "cuda":
        tokens = tokens.pin_memory()
    return list(tokens.to(device, non_blocking=True).long().split(plan.micro_sequences))


def ceilings(device: torch.device) -> dict[str, float]:
    """Return the TFLOP/s of a large bf16 product and the TB/s of a large copy, the best of ten."""
    size = 8192 if device.type == "cuda" else 256
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    product = min(_seconds(lambda: matrix @ matrix, device) for _ in range(10))
    words = torch.empty(size**2 * 4, device=device, dtype=torch.bfloat16)
    copy = min(_seconds(words.clone, device) for _ in range(10))
    return {
        "product_size": size,
        "product_tflops": 2 * size**3 / product / 1e12,
        "copy_tb_per_s": 2 * words.nbytes / copy / 1e12,
    }


def _seconds(work: Any, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _clocks() -> str | None:
    """Return SM clock, power and temperature, as nvidia-smi tells them right after the work."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw,temperature.gpu", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    main()
