"""Measure what one GPU trains, beside the peers that are there, and write the figures down.

usage: python benchmarks/gpu.py [--nanogpt PATH] [--models gpt2_124m,…] [--seconds 520] [--tiny]

Ceilings first (a product of 8192³ in bf16, a copy), then per size: ours, nanoGPT at its default micro-batch
and at its best, transformers with default DeepSpeed, and ours again: A B C A, so that a GPU that grows hot
shows it. When the time is up, what is left is named and not run. Writes benchmarks/results/gpu.json and
gpu.md, and for every size of ours a `training_speed` that `pretrain.plan` calibrates itself with. --tiny is a
dry run of all of it on any machine, into a folder of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import RESULTS, machine, write

from pretrain.throughput import flops_per_token, known_peak_flops

_ONE = Path(__file__).with_name("gpu_one.py")
# Micro-batch and accumulation: the largest that fits 80 GB without recomputation, by docs/performance.md.
_CUTS = {
    "gpt2_124m": (64, 8),
    "gpt2_355m": (48, 5),
    "gpt2_774m": (24, 5),
    "gpt2_1558m": (12, 8),
    "tiny": (4, 2),
}
_NANOGPT_DEFAULT = 12  # its train.py's batch_size
_LONGEST_SECONDS = 180  # of one contender, compiling included


# Where products in FP8 may pay; tiny only to see that it runs.
_FP8 = ("gpt2_774m", "gpt2_1558m", "tiny")


def main() -> None:
    """Run everything that there is time for."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--nanogpt", type=Path)
    asked.add_argument("--models", default="gpt2_124m,gpt2_355m,gpt2_774m,gpt2_1558m")
    asked.add_argument("--seconds", type=float, default=520.0)
    asked.add_argument("--tiny", action="store_true")
    given = asked.parse_args()
    ends = time.monotonic() + given.seconds
    folder = Path(tempfile.mkdtemp(prefix="bench-gpu-")) if given.tiny else RESULTS
    ceilings = _run(["ceilings"], ends)
    rows: list[dict[str, Any]] = []
    for model in ["tiny"] if given.tiny else given.models.split(","):
        for name, arguments in _contenders(model, given.nanogpt):
            row = {"model": model, "contender": name, **_run([*arguments, "--model", model], ends)}
            rows.append({**row, **_figures(row)})
            print(_line(rows[-1]), flush=True)
            _calibration(rows[-1], folder)
    print(write("gpu", {"kind": "gpu", "ceilings": ceilings, "rows": rows}, folder))
    (folder / "gpu.md").write_text(table(ceilings, rows))


def _contenders(model: str, nanogpt: Path | None) -> list[tuple[str, list[str]]]:
    micro, accumulation = _CUTS[model]
    cut = ["--micro", str(micro), "--accumulation", str(accumulation)]
    found = [("ours", ["ours", *cut])]
    if nanogpt:
        count = max(1, round(micro * accumulation / _NANOGPT_DEFAULT))
        small = ["--micro", str(_NANOGPT_DEFAULT), "--accumulation", str(count)]
        given = ["--nanogpt", str(nanogpt)]
        found += [
            (f"nanoGPT, micro-batch {_NANOGPT_DEFAULT}", ["nanogpt", *small, *given]),
            (f"nanoGPT, micro-batch {micro}", ["nanogpt", *cut, *given]),
        ]
    half = ["--micro", str(max(1, micro // 2)), "--accumulation", str(2 * accumulation)]
    found.append(("transformers, default DeepSpeed", ["deepspeed", *half]))
    found.append(("ours, again", ["ours", *cut]))
    if model in _FP8:
        found.append(("ours, fp8", ["ours_fp8", *cut]))
    return found


def _run(arguments: list[str], ends: float) -> dict[str, Any]:
    """Return what the program for one contender prints; {"failed": why} if it does not."""
    left = min(_LONGEST_SECONDS, ends - time.monotonic())
    if left <= 0:
        return {"failed": "no time was left"}
    try:
        done = subprocess.run(
            [sys.executable, _ONE, *arguments], capture_output=True, text=True, timeout=left, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {left:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    return json.loads(lines[-1])


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    """Return tokens per second, p50 and p95 of a step, and utilisation by two formulas."""
    if "failed" in row:
        return {}
    seconds, shape = sorted(row["seconds_per_step"]), row["shape"]
    median = statistics.median(seconds)
    layers, channels, context = shape["layers"], shape["channels"], shape["context"]
    blocks = layers * (12 * channels**2 + 13 * channels)
    in_products = shape["vocabulary"] * channels + blocks + 2 * channels
    palm = flops_per_token(parameters=in_products, layers=layers, channels=channels, sequence_tokens=context)
    llm_c = 6 * (in_products + context * channels) + 6 * layers * channels * context
    tokens_per_s = row["tokens_per_step"] / median
    peak = known_peak_flops(machine()["gpu"] or "")
    return {
        "p50_s": median,
        "p95_s": seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
        "tokens_per_s": tokens_per_s,
        "mfu_palm": palm * tokens_per_s / peak if peak else None,
        "mfu_llm_c": llm_c * tokens_per_s / peak if peak else None,
    }


def _calibration(row: dict[str, Any], folder: Path) -> None:
    """Write a figure of ours in the form that pretrain.plan reads; docs/planning.md lists its fields."""
    if row["contender"] != "ours" or "failed" in row:
        return
    micro, accumulation = _CUTS[row["model"]]
    gpu = machine()["gpu"]
    known = [name for name in ("H200", "H100", "A100") if gpu and name in gpu]
    content = {
        "kind": "training_speed",
        "model": row["shape"],
        "hardware": known[0] if known else gpu or "cpu",
        "ranks": 1,
        "ranks_per_node": 1,
        "sequence_tokens": row["shape"]["context"],
        "micro_sequences": micro,
        "accumulation": accumulation,
        "precision": "autocast",
        "compiled": gpu is not None,
        "recompute": "none",
        "zero_stage": 1,
        "tokens_per_s_per_gpu": row["tokens_per_s"],
        "seed": 0,
    }
    write(f"training_speed_{row['model']}_{content['hardware']}", content, folder)


def _line(row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"| {row['model']} | {row['contender']} | {row['failed']} | | | | | | |"
    used = [f"{100 * row[name]:.1f}" if row[name] else "" for name in ("mfu_palm", "mfu_llm_c")]
    memory = f"{row['peak_memory_gib']:.1f}" if row["peak_memory_gib"] else ""
    steps = f"{1000 * row['p50_s']:.1f} / {1000 * row['p95_s']:.1f}"
    cells = [row["model"], row["contender"], f"{row['tokens_per_s']:,.0f}", *used, steps, memory]
    return f"| {' | '.join(cells)} | {row['loss']:.4f} | {row['clocks'] or ''} |"


def table(ceilings: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the figures as a page of Markdown."""
    heads = (
        "model", "contender", "tokens/s", "MFU PaLM, %", "MFU llm.c, %", "step p50 / p95, ms",
        "peak GiB", "loss", "SM clock, power, °C",
    )  # fmt: skip
    return "\n".join([
        f"# One device: {machine()['gpu'] or machine()['cpu']}",
        "",
        "Ceilings of the same run: " + ", ".join(f"{name} {value}" for name, value in ceilings.items()),
        "",
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
        *map(_line, rows),
        "",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
