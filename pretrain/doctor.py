"""Look at this machine as a run would, and say what is missing and what to do about it.

python -m pretrain.doctor [folder=DIR] [ranks=2]

Checks Python and the packages, GPUs, compilers, disks (`folder` is where runs will lie), the vocabulary,
the network, SLURM and W&B; lets `ranks` processes meet (0 leaves that out). Exit code 10 if something
would stop a run.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conf import compose, typed
from conf.command import run as run_command
from conf.exits import Exit
from pretrain.machine import Finding, findings

# Two ranks import torch on a busy node, and a wrong network is found.
_MEETING_SECONDS = 180
_MARKS = {"ok": "ok", "note": "note", "fault": "FAULT"}


@dataclass(frozen=True)
class DoctorConfig:
    """Where runs will lie, and how many ranks shall meet."""

    folder: str = "."
    ranks: int = 2

    def __post_init__(self) -> None:
        if self.ranks < 0:
            raise ValueError(f"ranks={self.ranks} is not a number of processes; use 2, or 0 for none")


def main(overrides: list[str]) -> int:
    """Print a line for each finding; return Exit.CONFIG if one is a fault."""
    config = typed(DoctorConfig, compose("doctor", overrides))
    faults = 0
    for finding in _all(config):
        print(f"{_MARKS[finding.level]:<5} {finding.subject:<10} {finding.text}", flush=True)
        faults += finding.level == "fault"
    said = "1 fault: a run" if faults == 1 else f"{faults} faults: a run"
    print(f"\n{said} here would fail" if faults else "\nready to train")
    return Exit.CONFIG if faults else Exit.OK


def _all(config: DoctorConfig) -> Iterator[Finding]:
    yield from findings(Path(config.folder))
    if config.ranks:
        yield meeting(config.ranks)


def meeting(ranks: int) -> Finding:
    """Start `ranks` processes and let them meet, as a run's do."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    command = [sys.executable, "-m", *launcher, "pretrain.meeting"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MEETING_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        way_out = "set GLOO_SOCKET_IFNAME=lo, and NCCL_SOCKET_IFNAME to the interface between nodes"
        return Finding("fault", "ranks", f"{ranks} did not meet within {_MEETING_SECONDS} s; {way_out}")
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if "Error" in line] or ["no word"]
        return Finding("fault", "ranks", f"{ranks} could not meet: {told[0].strip()}")
    return Finding("ok", "ranks", done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    run_command(main, name="pretrain.doctor", config="doctor", usage=__doc__)
