"""A training on the test cluster: submit it, wait for a step, and read what it left."""

import json
import os
import random
import sys
from pathlib import Path

from slurm_cluster import Cluster

from pretrain.stream import ledger

ROOT = Path(__file__).resolve().parents[2]
STEPS = 30
SAVE_EVERY = 5
RANKS = 2
_WORDS = ("the", "of", "and", "a", "in", "to", "it", "is")


def read(path: Path) -> list[dict]:
    """Return the whole lines of a JSON-lines file."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n") and line.startswith("{")]


def made_texts(folder: Path) -> Path:
    """Write five files of a megabyte, so that every task of an array has work of its own."""
    chance = random.Random(0)
    folder.mkdir()
    for number in range(5):
        words = (chance.choice(_WORDS) + str(chance.randrange(10**6)) for _ in range(100_000))
        (folder / f"{number}.txt").write_text(" ".join(words))
    return folder


def figure(what: str, seconds: float) -> None:
    """Print a measured time, and keep it in the file that SLURM_FIGURES names."""
    print(f"{what}: {seconds:.1f} s")
    if path := os.environ.get("SLURM_FIGURES"):
        with Path(path).open("a") as file:
            file.write(json.dumps({"what": what, "seconds": round(seconds, 1)}) + "\n")


class Training:
    """A run of two nodes with one rank each, DeepSpeed over gloo."""

    def __init__(self, cluster: Cluster, index: Path, directory: Path) -> None:
        self.cluster, self.index, self.directory = cluster, index, directory
        self.log = directory.parent / "batch log.txt"
        self.job = ""

    @property
    def settings(self) -> list[str]:
        """The arguments of pretrain.train."""
        return [
            "experiment=smoke",
            f"data.index='{self.index}'",
            f"run_dir='{self.directory}'",
            f"steps={STEPS}",
            f"checkpoint.every={SAVE_EVERY}",
            "validation.every=0",
            "batch.tokens=256",
            "model.dropout=0.1",
        ]

    def submit(self, *options: str, settings: tuple[str, ...] = (), nodes: str = "2") -> None:
        """Submit it by hand, with plain sbatch."""
        share = "--mincpus=1" if "-" in nodes else "--ntasks-per-node=1"
        self.job = self.cluster.submit(
            f"--nodes={nodes}",
            share,
            "--gpus-per-node=1",
            "--time=30",
            f"--output={self.log}",
            f"--chdir={ROOT}",
            *options,
            ROOT / "slurm" / "train.sbatch",
            *self.settings,
            *settings,
            GPT2_PYTHON=sys.executable,
            GPT2_CODE=str(ROOT),
        )

    def rows(self) -> list[dict]:
        """Return the metric rows, of all attempts."""
        rows = read(self.directory / "metrics.jsonl")
        return [row for row in rows if "step" in row and "event" not in row and "alert" not in row]

    def losses(self) -> dict[int, float]:
        """Return the training loss of every step; a later attempt's word counts."""
        return {row["step"]: row["train/loss"] for row in self.rows() if "train/loss" in row}

    def outcomes(self) -> list[dict]:
        """Return how the starts of the job ended."""
        return [line for line in read(self.directory / "attempts.jsonl") if line["event"] == "outcome"]

    def decisions(self) -> list[str]:
        """Return what became of the job each time."""
        return [line["decision"] for line in self.outcomes()]

    def newest_step(self) -> int:
        """Return the step of the newest checkpoint."""
        found = [int(path.name[5:]) for path in (self.directory / "checkpoints").glob("step-*")]
        return max(found, default=0)

    def trains(self, step: int = SAVE_EVERY + 3) -> None:
        """Return when a step has been reported."""
        self.cluster.until(lambda: max(self.losses(), default=0) >= step or self.ended(), f"step {step}")
        assert not self.ended(), self.words()

    def trains_again(self, restart: int, step: int = 0) -> None:
        """Return when the job has resumed so many times, and has reported a step beyond one."""

        def resumed() -> bool:
            starts = [row for row in read(self.directory / "metrics.jsonl") if row.get("event") == "resumed"]
            return len(starts) >= restart and max(self.losses(), default=0) > step

        self.cluster.until(resumed, f"start {restart} resumes")

    def ended(self) -> bool:
        """Say whether the job has ended for good."""
        return self.cluster.state(self.job) in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")

    def is_done(self) -> None:
        """Wait for the end, and fail with everything that was said unless it is a good one."""
        state = self.cluster.ended(self.job)
        assert state == "COMPLETED", f"{state}\n{self.words()}"
        assert self.cluster.fact(self.job, "ExitCode") == "0:0"
        assert self.newest_step() == STEPS, self.words()

    def words(self) -> str:
        """Return the logs of the job and of its ranks."""
        paths = [self.log, *sorted((self.directory / "logs").glob("*/*.log"))]
        return "\n".join(f"== {path}\n{path.read_text()[-3000:]}" for path in paths if path.exists())


def equals(run: Path, other: Path, *, steps: int = STEPS) -> None:
    """Fail unless two runs have the same losses, steps and last state, to the bit, and the same ledger."""
    losses = [
        {row["step"]: row["train/loss"] for row in read(each / "metrics.jsonl") if "train/loss" in row}
        for each in (run, other)
    ]
    assert sorted(losses[0]) == list(range(1, steps + 1))
    assert losses[0] == losses[1]
    states = [
        {
            path.name: path.read_bytes()
            for path in sorted((each / "checkpoints" / f"step-{steps:08d}").glob("state-*"))
        }
        for each in (run, other)
    ]
    assert len(states[0]) == RANKS
    assert states[0] == states[1]
    lost_nothing(run, steps)
    assert consumed(run) == consumed(other)


def lost_nothing(run: Path, steps: int = STEPS) -> None:
    """Fail unless the ledger of a run tells that each sequence of its steps was taken once."""
    account = ledger.account(ledger.read(run))
    assert account.steps == steps
    assert (account.lost, account.duplicated, account.changed_steps) == (0, 0, 0)


def consumed(run: Path) -> dict[int, tuple[int, int, str]]:
    """Return the first sequence, the number and the places of each step; a later attempt's word counts."""
    return {entry.step: (entry.first, entry.sequences, entry.places) for entry in ledger.read(run)}
