"""The whole road in one command: real text → shards → a GPT-2 that is killed, resumed, sampled, exported.

    make demo            or        python examples/demo.py [FOLDER]

The text is the interpreter's own standard library, so nothing is downloaded. Whatever is already
done in FOLDER is not done again; delete it to begin anew.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

STEPS = 120
SAVE_EVERY = 30
KILL_AFTER = STEPS // 2 + 5  # not at a checkpoint, so that there are steps to lose and to do again
PROMPT = "def read_file(path):"


def main(folder: Path) -> None:
    """Walk the road, saying each command before it runs."""
    shards, run, export, page = (folder / name for name in ("shards", "run", "gpt2", "dashboard.html"))
    folder.mkdir(parents=True, exist_ok=True)
    python("data_prep.prepare", "corpus=stdlib", "validation.fraction=0.02", f"output={shards}")
    python("data_prep.finalize", f"output={shards}")
    python("data_prep.verify", f"output={shards}")
    train(shards, run)
    title("Validation loss")
    for step, loss, note in validation_losses(run):
        print(f"  step {step:>4}   {loss:.3f} nats/token   {note}")
    python("pretrain.sample", f"run_dir={run}", f"prompt={PROMPT}", "tokens=60")
    python("pretrain.export", f"run_dir={run}", f"output={export}")
    python("pretrain.dashboard", f"run_dir={run}", f"export={page}")


def train(shards: Path, run: Path) -> None:
    """Train; half-way, kill every process with SIGKILL and start the same command again."""
    ranks = torch.cuda.device_count() or 2
    settings = ["experiment=demo", f"data.index={shards}/index.json", f"run_dir={run}"]
    if torch.cuda.is_available():
        settings.append("precision=autocast")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    command = [sys.executable, *launcher, "pretrain.train", *settings]
    if rows(run):
        call(command)
        return
    title(f"torchrun --standalone --nproc-per-node {ranks} -m pretrain.train {' '.join(settings)}")
    trainer = subprocess.Popen(command, env=environment())
    while trainer.poll() is None and last_step(run) < KILL_AFTER:
        time.sleep(0.2)
    if trainer.poll() is None:
        everyone = [*psutil.Process(trainer.pid).children(recursive=True), psutil.Process(trainer.pid)]
        for process in everyone:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(everyone)
        print(f"\n  ✗ SIGKILL to all {len(everyone)} processes after step {last_step(run)}\n", flush=True)
    call(command)


def validation_losses(run: Path) -> list[tuple[int, float, str]]:
    """Return (step, loss, note) of the first validation, the last before the kill, and the last."""
    measured = [row for row in rows(run) if "val/loss" in row]
    before = [row for row in measured if row["attempt"] == 0]
    picked = [
        (measured[0], "before the first step"),
        (before[-1], "last before the kill"),
        (measured[-1], "last"),
    ]
    return [(row["step"], row["val/loss"], note) for row, note in picked]


def rows(run: Path) -> list[dict]:
    """Return the metric rows written so far; the last line may be unfinished."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in parsed if "step" in row and "event" not in row]


def last_step(run: Path) -> int:
    """Return the newest step that the run has reported."""
    return max((row["step"] for row in rows(run)), default=0)


def python(module: str, *arguments: str) -> None:
    """Run one of the project's commands."""
    call([sys.executable, "-m", module, *arguments])


def call(command: list[str]) -> None:
    """Say a command as one would type it, and run it; leave with its exit code if it fails."""
    title(" ".join(["python", *command[1:]]))
    code = subprocess.run(command, env=environment(), check=False).returncode
    if code:
        sys.exit(code)


def environment() -> dict[str, str]:
    """Return the environment of the children: one thread for each of two processes on a small machine."""
    threads = max(1, (os.cpu_count() or 2) // 2)
    return {"OMP_NUM_THREADS": str(threads), **os.environ}


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n\x1b[1m▸ {text}\x1b[0m" if sys.stdout.isatty() else f"\n▸ {text}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
