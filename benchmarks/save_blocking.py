"""How long training stands still for a save, and which share of its time that is at the default interval.

python benchmarks/save_blocking.py [--report FILE]

Trains models of three sizes for some steps with a save after every fourth, and reads both times from the
record of the run. While a state is written, the steps go on; what they lose to it is told beside.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pretrain.checkpoint import CheckpointConfig

STEPS, SAVE_EVERY = 21, 4
SIZES = ((2, 64), (4, 128), (6, 256))  # layers, channels


def main() -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--report", type=Path)
    report = parser.parse_args().report
    lines = [
        f"machine  {platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        f"default  {CheckpointConfig().every} steps, or {CheckpointConfig().minutes} minutes",
    ]
    with tempfile.TemporaryDirectory() as name:
        index = _data_set(Path(name))
        lines += [_measured(index, Path(name) / f"run-{size[1]}", *size) for size in SIZES]
    print("\n".join(lines))
    if report:
        report.write_text("\n".join(lines) + "\n")


def _measured(index: Path, run_dir: Path, layers: int, channels: int) -> str:
    """Train; return what was measured, in a line."""
    size = [f"model.layers={layers}", f"model.channels={channels}"]
    often = [f"steps={STEPS}", f"checkpoint.every={SAVE_EVERY}", "log_every=1", "validation.every=0"]
    _run("pretrain.train", "experiment=smoke", f"data.index={index}", f"run_dir={run_dir}", *size, *often)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    steps = {row["step"]: row["perf/step_s"] for row in rows if "perf/step_s" in row}
    saves = {row["step"]: row["time/checkpoint_save_s"] for row in rows if "time/checkpoint_save_s" in row}
    blocked = statistics.median(saves.values())
    beside = statistics.median(steps[step + 1] for step in saves if step + 1 in steps)
    usual = statistics.median(
        seconds for step, seconds in steps.items() if step - 1 not in saves and step > 2
    )
    default = CheckpointConfig()
    interval = min(default.every * usual, 60 * (default.minutes or float("inf")))
    newest = max((run_dir / "checkpoints").glob("step-*"))
    mebibytes = sum(path.stat().st_size for path in newest.iterdir()) / 2**20
    return (
        f"{mebibytes:7.1f} MiB of state: {1000 * blocked:6.1f} ms stood still, "
        f"{100 * blocked / interval:.3f} % of the interval; a step takes {1000 * usual:.0f} ms, "
        f"the one beside the writing {1000 * beside:.0f} ms"
    )


def _data_set(directory: Path) -> Path:
    output = directory / "shards"
    paths = f"corpus.paths=[{Path(json.__file__).parent}]"
    small = ["packing.block_tokens=1024", "validation.fraction=0"]
    _run("data_prep.prepare", "corpus=text", paths, "corpus.suffixes=[.py]", f"output={output}", *small)
    _run("data_prep.finalize", f"output={output}")
    return output / "index.json"


def _run(module: str, *settings: str) -> None:
    subprocess.run([sys.executable, "-m", module, *settings], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
