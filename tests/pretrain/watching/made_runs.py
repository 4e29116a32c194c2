"""Runs that never ran: a metrics.jsonl as a trainer would write it, in a moment."""

import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STEPS = 1000
TOKENS_PER_STEP = 524288
STARTUP_SECONDS, QUEUE_SECONDS = 30.0, 300.0


def metrics_at(step: int, noise: random.Random, peak: float) -> dict[str, float]:
    """Return believable metrics of a 124M model on eight GPUs at a step."""
    step_seconds = 0.42 + abs(noise.gauss(0, 0.006))
    speed = TOKENS_PER_STEP / step_seconds
    metrics = {
        "train/loss": 3.05 + 7.9 * math.exp(-step / 60) + 0.9 * math.exp(-step / 500) + noise.gauss(0, 0.03),
        "optim/lr": peak * (0.55 + 0.45 * math.cos(math.pi * step / STEPS)),
        "optim/grad_norm": 0.35 + 4 * math.exp(-step / 30) + abs(noise.gauss(0, 0.05)),
        "optim/skipped_steps": 0.0,
        "health/loss_z": noise.gauss(0, 1),
        "perf/tokens_per_s": speed,
        "perf/tokens_per_s_per_gpu": speed / 8,
        "perf/mfu": 6.9e8 * speed / 8 / 989e12,
        "perf/step_s": step_seconds,
        "perf/data_wait_s": 0.004,
        "perf/data_wait_frac": 0.004 / step_seconds,
        "mem/peak_active_gib": 33 + noise.random(),
        "time/goodput": 0.95,
        "time/eta_h": (STEPS - step) * step_seconds / 3600,
        "data/epoch": step * TOKENS_PER_STEP / 1e10,
        "progress/chinchilla": step * TOKENS_PER_STEP / (20 * 124e6),
    }
    if step % 100 == 0:
        loss = metrics["train/loss"] + 0.02
        metrics |= {"val/loss": loss, "val/ppl": math.exp(loss), "time/eval_s": 4.0}
        metrics["time/checkpoint_save_s"] = 6.0
    return metrics


def make_run(
    run_dir: Path,
    *,
    seed: int = 0,
    last: int = STEPS,
    every: int = 10,
    crash_at: int = 0,
    finished: bool = True,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Write a run of `last` steps, its last line a second old; a crash goes back to a multiple of 100."""
    lines = list(_lines(seed, last, every, crash_at, {"steps": STEPS, "seed": seed, **(settings or {})}))
    if finished:
        lines.append({**lines[-1], "event": "finished", "exit_code": 0})
    shift = time.time() - 1 - lines[-1]["time"]
    run_dir.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps({**line, "time": line["time"] + shift}) + "\n" for line in lines)
    (run_dir / "metrics.jsonl").write_text(text)
    return run_dir


def _lines(
    seed: int, last: int, every: int, crash_at: int, settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    noise, now, attempt, step, fresh = random.Random(seed), 0.0, 0, 0, True
    yield {"attempt": 0, "time": now, "event": "started", "settings": settings}
    while step < last:
        step += every
        metrics = metrics_at(step, noise, 6e-4 * (1 + seed))
        if fresh:
            metrics["time/startup_s"], fresh = STARTUP_SECONDS, False
            now += STARTUP_SECONDS
        now += (
            every * metrics["perf/step_s"]
            + metrics.get("time/eval_s", 0)
            + metrics.get("time/checkpoint_save_s", 0)
        )
        stamp = {"attempt": attempt, "time": now}
        yield {**stamp, "step": step, "tokens": step * TOKENS_PER_STEP, **metrics}
        if step % 100 == 0:
            yield {**stamp, "event": "checkpoint", "step": step, "seconds": 6.0}
            yield {
                **stamp,
                "event": "sample",
                "step": step,
                "prompt": "The sea",
                "text": " answered with a wave.",
            }
        if step == crash_at:
            yield {**stamp, "alert": "loss spike", "text": f"z=9.3 at step {step}", "level": "WARN"}
            attempt, crash_at, fresh, step = attempt + 1, 0, True, step // 100 * 100
            now += QUEUE_SECONDS
            yield {"attempt": attempt, "time": now, "event": "started", "settings": settings}
            yield {"attempt": attempt, "time": now, "event": "resumed", "step": step}
