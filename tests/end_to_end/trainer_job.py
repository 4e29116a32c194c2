"""Start the trainer's processes as a launcher would, kill them, and read what they left."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

LONGEST_SECONDS = 240


class Job:
    """One attempt: `ranks` processes of `program`, their output in files (a full pipe would hang them)."""

    def __init__(
        self,
        directory: Path,
        *settings: str,
        ranks: int = 2,
        program: tuple[str, ...] = ("-m", "pretrain.train"),
        **environment: str,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        number = len(list(directory.glob("attempt-*-rank-0.log")))
        self.logs = [directory / f"attempt-{number}-rank-{rank}.log" for rank in range(ranks)]
        port = str(_free_port())
        self.processes = []
        for rank, log in enumerate(self.logs):
            distributed = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
            rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
            with log.open("w") as output:
                process = subprocess.Popen(
                    [sys.executable, *program, *settings],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **distributed, **rendezvous, **environment},
                )
            self.processes.append(process)

    def wait(self) -> list[int]:
        """Return the exit codes in the order of ranks."""
        return [process.wait(LONGEST_SECONDS) for process in self.processes]

    def running(self) -> bool:
        """Say whether all processes are still there."""
        return all(process.poll() is None for process in self.processes)

    def kill(self) -> list[int]:
        """Send SIGKILL to every process; return their exit codes."""
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        return self.wait()

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


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
