"""Start the trainer's processes as a launcher would, kill them, and read what they left."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from warm_start import WarmProcess

PLANTED = (str(Path(__file__).parent / "planted.py"),)  # the trainer, with the faults that PLANT names
LONGEST_SECONDS = float(os.environ.get("LONGEST_SECONDS", "240"))  # of an attempt, on an idle machine


class Job:
    """One attempt: `ranks` processes of `program`, their output in files (a full pipe would hang them).

    They are forked from a parent that has imported the trainer, unless they are to start `cold`.
    """

    def __init__(
        self,
        directory: Path,
        *settings: str,
        ranks: int = 2,
        program: tuple[str, ...] = ("-m", "pretrain.train"),
        cold: bool = False,
        **environment: str,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        number = len(list(directory.glob("attempt-*-rank-0.log")))
        self.logs = [directory / f"attempt-{number}-rank-{rank}.log" for rank in range(ranks)]
        port = str(_free_port())
        self.processes: list[WarmProcess | subprocess.Popen[bytes]] = []
        for rank, log in enumerate(self.logs):
            distributed = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
            rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
            there = {**os.environ, **distributed, **rendezvous, **environment}
            start = _cold if cold else WarmProcess
            self.processes.append(start([*program, *settings], log=log, environment=there))

    def wait(self) -> list[int]:
        """Return the exit codes in the order of ranks."""
        return [process.wait(LONGEST_SECONDS) for process in self.processes]

    def running(self) -> bool:
        """Say whether all processes are still there."""
        return all(process.poll() is None for process in self.processes)

    def kill(self) -> list[int]:
        """Send SIGKILL to every process; return their exit codes when their children are gone too."""
        trainers = self.trainers()
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        codes = self.wait()
        _gone, alive = psutil.wait_procs(trainers, timeout=60)
        assert alive == [], alive
        return codes

    def trainers(self) -> list[psutil.Process]:
        """Return the children that train, of the processes that have forked and have not ended."""
        found = []
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += psutil.Process(process.pid).children()
        return found

    def reaches(self, condition: Callable[[], object]) -> bool:
        """Wait until `condition` holds; say whether it came to that before a process ended."""
        deadline = time.monotonic() + 4 * LONGEST_SECONDS  # a soak may share its machine
        while not condition():
            if not self.running():
                return False
            assert time.monotonic() < deadline, self.output()[-3000:]
            time.sleep(0.02)
        return True

    def output(self, rank: int = 0) -> str:
        """Return what a rank has printed."""
        return self.logs[rank].read_text()

    def succeeded(self) -> None:
        """Wait, and fail the test with the processes' words unless all of them left with 0."""
        codes = self.wait()
        said = [log.read_text()[-3000:] for log in self.logs]
        assert codes == [0] * len(codes), "\n".join([str(codes), *said])


def smoke(shards: Path, run_dir: Path, *more: str) -> list[str]:
    """Return the settings of a run of seconds that accumulates gradients on one rank and on two."""
    run = ["experiment=smoke", f"data.index={shards}", f"run_dir={run_dir}"]
    return [*run, "batch.tokens=512", "batch.micro_sequences=2", *more]


def metric_rows(run_dir: Path) -> list[dict]:
    """Return the metric rows written so far, of all attempts, in the order of writing."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in parsed if "step" in row and "event" not in row and "alert" not in row]


def losses(run_dir: Path) -> dict[int, float]:
    """Return the training loss of every step; a later attempt's word counts."""
    return {row["step"]: row["train/loss"] for row in metric_rows(run_dir) if "train/loss" in row}


def state_files(run_dir: Path, step: int) -> dict[str, bytes]:
    """Return the weights and moments of a checkpoint, as bytes, by file name."""
    directory = run_dir / "checkpoints" / f"step-{step:08d}"
    return {path.name: path.read_bytes() for path in sorted(directory.glob("state-*.safetensors"))}


def _cold(arguments: Sequence[str], *, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("w") as output:
        return subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, env=environment
        )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
