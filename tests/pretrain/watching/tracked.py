"""Tracked loops as processes of their own, and what they left behind."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb_file import WandbFile, read

from pretrain.watching.run_log import read_run

CHILD = Path(__file__).with_name("tracked_child.py")


def clean_environment(**added: str) -> dict[str, str]:
    """Return this process's environment without accounts, services and settings of W&B."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return {**kept, "WANDB_ERROR_REPORTING": "false", "NETRC": os.devnull, **added}


@dataclass
class Child:
    """What became of a tracked process."""

    exit_code: int
    says: str
    typical_ms: float
    slowest_ms: float
    finish_seconds: float
    exit_seconds: float


def tracked(run_dir: Path, environment: dict[str, str] | None = None, **order: Any) -> Child:
    """Run a tracked loop in its own process and return what became of it."""
    process = started(run_dir, environment, **order)
    output, says = process.communicate(timeout=90)
    ended_at = time.time()
    told = json.loads(output.splitlines()[-1]) if output.strip() else {}
    return Child(
        exit_code=process.returncode,
        says=says,
        typical_ms=told.get("typical_ms", 0.0),
        slowest_ms=told.get("slowest_ms", 0.0),
        finish_seconds=told.get("finish_seconds", 0.0),
        exit_seconds=ended_at - told.get("ended_at", ended_at) + told.get("finish_seconds", 0.0),
    )


def started(
    run_dir: Path, environment: dict[str, str] | None = None, **order: Any
) -> "subprocess.Popen[str]":
    text = json.dumps({"run_dir": str(run_dir), **order})
    return subprocess.Popen(
        [sys.executable, str(CHILD), text],
        env=clean_environment(**(environment or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def offline_files(run_dir: Path) -> list[WandbFile]:
    return [read(path) for path in sorted((run_dir / "wandb").glob("*run-2*"))]


def recorded_steps(run_dir: Path) -> list[int]:
    return list(read_run(run_dir).steps)
