"""Prove that a run resumes to the bit: with its own settings, on this machine.

python -m pretrain.verify_resume run_dir=RUN [steps=8] [ranks=N]

Trains the first `steps` steps twice in a folder of its own inside RUN: once straight, once stopped
half-way and started again in new processes. Compares every loss, every weight and both moments, bit by
bit, and says where they part. The run itself is not touched. Exit code 0 if all are equal, else 13.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors

from conf import compose, typed
from conf.command import run as run_command
from conf.exits import ConfigError, CorruptError, Exit, UserError
from pretrain import frozen
from pretrain.checkpoint import DIRECTORY
from pretrain.storage.manifest import step_name
from pretrain.watching.run_log import read_run


@dataclass(frozen=True)
class VerifyResumeConfig:
    """Which run, and how long a piece of it."""

    run_dir: str
    steps: int = 8
    ranks: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, to have a middle, not {self.steps}")
        if self.ranks is not None and self.ranks < 1:
            raise ValueError(f"ranks must be at least 1, or null, not {self.ranks}")


def main(overrides: list[str]) -> None:
    """Print what was compared; raise CorruptError at the first difference."""
    config = typed(VerifyResumeConfig, compose("verify_resume", overrides))
    run_dir = Path(config.run_dir)
    begun, _ = frozen.begun(run_dir)
    steps = min(config.steps, begun.steps)
    ranks = config.ranks or _ranks_of_last_attempt(run_dir)
    scratch = Path(tempfile.mkdtemp(prefix=".verify-resume-", dir=run_dir))
    try:
        straight, resumed = scratch / "straight", scratch / "resumed"
        for folder, stops in ((straight, [steps]), (resumed, [steps // 2, steps])):
            folder.mkdir()
            shutil.copy(run_dir / frozen.CONFIG, folder / frozen.CONFIG)
            for stop in stops:
                print(f"training to step {stop} on {ranks} ranks: {folder.name}", flush=True)
                _train(folder, stop, ranks)
        for difference in differences(straight, resumed, steps):
            raise CorruptError(f"resuming at step {steps // 2} is not exact: {difference}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(
        f"resume is exact: {steps} losses, all weights and both moments are equal to the bit on {ranks} ranks"
    )


def differences(straight: Path, resumed: Path, steps: int) -> Iterator[str]:
    """Yield where two run directories part, the earliest first."""
    one, other = read_run(straight), read_run(resumed)
    for step, a, b in zip(one.steps, one.column("train/loss"), other.column("train/loss"), strict=False):
        if repr(a) != repr(b):  # exact for every float, and a NaN equals itself
            yield f"the loss of step {step} is {a!r} straight and {b!r} resumed"
    if one.steps != other.steps:
        yield f"{len(one.steps)} steps straight, {len(other.steps)} resumed"
    name = step_name(steps)
    for file in sorted((straight / DIRECTORY / name).glob("state-*.safetensors")):
        yield from _different_tensors(file, resumed / DIRECTORY / name / file.name)


def _different_tensors(file: Path, twin: Path) -> Iterator[str]:
    if not twin.exists():
        yield f"{twin.name} is missing in the resumed run"
        return
    with safetensors.safe_open(file, "pt") as one, safetensors.safe_open(twin, "pt") as other:
        for key in one.keys():  # noqa: SIM118 (not a mapping)
            a, b = one.get_tensor(key), other.get_tensor(key)
            if a.numpy().tobytes() != b.numpy().tobytes():
                yield f"{key} in {file.name} differs in {int((a != b).sum())} of {a.numel()} elements"


def _train(folder: Path, stop: int, ranks: int) -> None:
    """Train in `folder` up to step `stop` in processes of their own."""
    quiet = ["tracking.wandb=disabled", "validation.every=0", "log_every=1"]
    settings = [f"run_dir={folder}", f"stop_at={stop}", "checkpoint.every=0", *quiet]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    module = ["-m", *(launcher if ranks > 1 else []), "pretrain.train"]
    done = subprocess.run([sys.executable, *module, *settings], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        said = next((line for line in lines if ": error: " in line), lines[-1] if lines else "")
        failure = UserError(f"training to step {stop} failed: {said.partition(': error: ')[2] or said}")
        failure.code = Exit(done.returncode) if done.returncode in list(Exit) else Exit.CONFIG
        raise failure


def _ranks_of_last_attempt(run_dir: Path) -> int:
    try:
        lines = (run_dir / "attempts.jsonl").read_text().splitlines()
        return int([each for each in map(json.loads, lines) if "ranks" in each][-1]["ranks"])
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ConfigError(
            f"{run_dir}/attempts.jsonl does not tell the number of ranks; give ranks=N"
        ) from error


if __name__ == "__main__":
    run_command(main, name="pretrain.verify_resume", config="verify_resume", usage=__doc__)
