"""Runs that never ran, beside llm.c's curve: on it, above it, or off it."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf import option
from conf.exits import Exit
from pretrain.watching.reference import loss_at, named

TOKENS_PER_STEP = 524_288
REFERENCE = named("gpt2_124m_fineweb")
SETTINGS: dict[str, Any] = {
    "steps": 18_865,
    "reference": "gpt2_124m_fineweb",
    "corpora": ["fineweb_10bt"],
    "ranks": 8,
    "model": {str(key): value for key, value in option("model", "gpt2_124m").items()},
    "batch": {"tokens": TOKENS_PER_STEP, "micro_sequences": 64},
    "data": {"sequence_tokens": 1024},
    "schedule": {"shape": "cosine", "peak": 6e-4, "warmup_steps": 700, "final_fraction": 0.0},
    "optim": {"weight_decay": 0.1},
    "cluster": {"name": "h100x8", "hardware": "H100"},
}


def on_track(step: int) -> float:
    return published(step) + 0.004


def behind(step: int) -> float:
    return published(step) + 0.06 * min(1.0, step / 4000)


def diverged(step: int) -> float:
    return published(step) if step < 8000 else 7.2


def not_a_number(step: int) -> float:
    return published(step) if step < 8000 else math.nan


def not_a_number_for_once(step: int) -> float:
    return math.nan if step == 8000 else published(step)


def published(step: int) -> float:
    found = loss_at(REFERENCE.curve, step * TOKENS_PER_STEP)
    return found if found is not None else 11.0 - 4.83 * step / 250


def plant(
    run_dir: Path,
    loss: Callable[[int], float],
    *,
    last: int = 10_000,
    every: int = 250,
    crash_at: int | None = None,
    **changed: Any,
) -> Path:
    """Write the record of a run whose validation loss after a step is `loss(step)`.

    One that ends without a finite loss says so as a real run does: see test_alerts_of_a_run.py.
    """
    noise, now = random.Random(7), 1_795_000_000.0
    settings = {**SETTINGS, **changed}
    lines: list[dict[str, Any]] = [
        {"attempt": 0, "time": now, "event": "started", "settings": settings},
    ]
    attempt = 0
    for step in range(0, last + 1, every):
        if step == crash_at:
            attempt += 1
            now += 600
            lines.append({"attempt": attempt, "time": now, "event": "started", "settings": settings})
        now += every * 0.15
        value = loss(step)
        shown: float | str = value if math.isfinite(value) else "nan"
        row = {"attempt": attempt, "time": now, "step": step, "tokens": step * TOKENS_PER_STEP}
        metrics = {
            "train/loss": value + noise.gauss(0, 0.03) if math.isfinite(value) else "nan",
            "perf/tokens_per_s": 3.5e6,
            "perf/tokens_per_s_per_gpu": 3.5e6 / 8,
            "perf/mfu": 0.378,
            "perf/step_s": 0.15,
            "optim/skipped_steps": 0.0,
        }
        lines.append(row | (metrics if step else {}) | {"val/loss": shown, "eval/hellaswag_acc_norm": 0.29})
        if not math.isfinite(value) and not any("alert" in line for line in lines):
            lines.append(alerted(attempt, now, "non-finite loss"))
    lines.append(
        {**row, "event": "sample", "prompt": "The sea", "text": " | answered <b>with</b> a wave.\n\nTwice."}
    )
    if not math.isfinite(loss(last)):
        lines += [alerted(attempt, now, title) for title in ("steps are skipped", "failed")]
        lines.append({"attempt": attempt, "time": now, "event": "stopped", "exit_code": Exit.NON_FINITE})
    run_dir.mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run_dir


def alerted(attempt: int, now: float, title: str) -> dict[str, Any]:
    return {"attempt": attempt, "time": now, "alert": title, "text": "", "level": "ERROR"}
