"""What an option does to the loss: each beside the defaults, with the same tokens, for several seeds.

usage: python benchmarks/options.py INDEX [--seeds N] [--setting KEY=VALUE …]

Trains the demo's model on 246k tokens, with half its batch; a seed gives the weights and the order of the
data. The difference from the default is taken seed by seed. One small model says whether an option works at
all, not what it is worth at 124M.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import record

from pretrain.watching.run_log import read_run

_COMMON = ("batch.tokens=2048", "precision=autocast", "tracking=disabled")
_RARE = ("checkpoint.every=0", "validation.every=0")  # only at the end
_WSD = ("schedule=wsd", "schedule.peak=2e-3", "schedule.warmup_steps=15")  # the demo's own peak
_MUON = ("optim=muon", "zero=stage0")
OPTIONS: dict[str, tuple[str, ...]] = {
    "default": (),
    "cautious": ("optim.cautious=true",),
    "zero_projections": ("model.zero_projections=true",),
    # As many tokens in more steps: 128 of 1,024 and 56 of 2,048.
    "growing_batch": ("batch.warmup_from=1024", "batch.warmup_tokens=131072", "steps=184"),
    # Quarters of a sequence for the first 61,440 tokens, then halves for as many.
    "short_rows": ("batch.rows_from=32", "batch.rows_warmup_tokens=122880"),
    "wsd": _WSD,
    "muon": _MUON,
    "muon_wsd": (*_MUON, *_WSD),
}


def main() -> None:
    """Train every option with every seed, seed by seed; write the result and print it as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--setting", action="append", default=[])
    given = parser.parse_args()
    losses: dict[str, list[float]] = {name: [] for name in OPTIONS}
    seconds: dict[str, list[float]] = {name: [] for name in OPTIONS}
    content: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            for name, settings in OPTIONS.items():
                run_dir = Path(folder) / f"{name}-{seed}"
                loss, step_seconds = trained(given.index, run_dir, *settings, *given.setting, f"seed={seed}")
                losses[name].append(loss)
                seconds[name].append(step_seconds)
                print(f"seed {seed}  {name:17s} {loss:.4f}  {1000 * step_seconds:.0f} ms a step", flush=True)
            content = {name: told(losses[name], losses["default"], seconds[name]) for name in OPTIONS}
            written = {"settings": given.setting, "seeds": seed + 1, "options": content}
            print(record.write("options", written))
    for name, row in content.items():
        less = f"{row['difference_mean']:+.4f} ± {row['difference_deviation']:.4f}"
        print(f"{name:17s} {row['loss_mean']:.4f}  {less}")


def told(losses: list[float], default: list[float], seconds: list[float]) -> dict[str, float]:
    """Return the mean loss, the difference from the default (mean, deviation), and a step's seconds."""
    differences = [loss - other for loss, other in zip(losses, default, strict=True)]
    return {
        "loss_mean": statistics.fmean(losses),
        "difference_mean": statistics.fmean(differences),
        "difference_deviation": statistics.stdev(differences) if len(differences) > 1 else 0.0,
        "step_seconds_median": statistics.median(seconds),
    }


def trained(index: Path, run_dir: Path, *settings: str) -> tuple[float, float]:
    """Train the demo's model; return the last validation loss and the median seconds of a step."""
    command = [sys.executable, "-m", "pretrain.train", "experiment=demo", *_COMMON, *_RARE]
    command += [f"data.index={index}", f"run_dir={run_dir}", *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    run = read_run(run_dir)
    losses = [row["val/loss"] for row in run.rows() if "val/loss" in row]
    times = [row["perf/step_s"] for row in run.rows() if "perf/step_s" in row]
    return losses[-1], statistics.median(times)


if __name__ == "__main__":
    main()
