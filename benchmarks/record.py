"""What a benchmark leaves behind: one JSON file that says what was run, where, and what came out."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Return what a reader must know of this machine to read a figure."""
    gpu = torch.cuda.is_available()
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write(name: str, content: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result to `folder`/`name`.json; return its path."""
    described = {
        **content,
        "machine": machine(),
        "commit": _commit(),
        "command": " ".join(["python", *sys.argv]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(described, indent=2) + "\n")
    return path


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
