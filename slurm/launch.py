"""How the ranks are started: one srun, one task for each rank, and who ended first is heard from it."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.guard import processes
from slurm import scheduler
from slurm.site import TrainJob

# Below Linux's ephemeral ports, which any client on the node may be given.
_PORTS = range(20000, 32000)
_TRIES = 100
_LOOK_SECONDS = 2.0  # for a start that has replaced this one; old ranks learn of it at their next save
_EXITED = re.compile(r"srun: error: (\S+): tasks? (\d+)[\d,\-]*: (?:Exited with exit code (\d+)|(.+))")
_TASK_SIGNALS = {
    "Killed": signal.SIGKILL,
    "Terminated": signal.SIGTERM,
    "Aborted": signal.SIGABRT,
    "Segmentation fault": signal.SIGSEGV,
    "Bus error": signal.SIGBUS,
    "Floating point exception": signal.SIGFPE,
    "Illegal instruction": signal.SIGILL,
    "Out Of Memory": signal.SIGKILL,
}


@dataclass(frozen=True)
class Ended:
    """How the ranks ended."""

    exit_code: int  # of the first that did not leave with 0; 128 + N for signal N
    node: str  # of that rank; "" if all left with 0, or nobody told
    rank: int
    started: bool  # False if srun could not start them at all


def rank_environment(settings: TrainJob, environment: Mapping[str, str], job: str) -> dict[str, str]:
    """Return the environment of every rank; each finds its own number in SLURM's variables.

    This process is on the job's first node, where rank 0 will listen, so the port is tried here.
    """
    first = scheduler.hosts(environment["SLURM_JOB_NODELIST"])[0]
    cpus = environment.get("SLURM_CPUS_PER_TASK", str(settings.cpus_per_rank))
    ours = {
        "MASTER_ADDR": _address(first),
        "MASTER_PORT": str(_free_port(f"{job}.{os.getpid()}")),
        "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", cpus),
        "SRUN_CPUS_PER_TASK": cpus,  # srun has not inherited it from sbatch since 22.05
        # The code of this run, also in a container that starts in a folder of its own.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(Path.cwd()), environment.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }
    if "SLURM_JOB_END_TIME" not in environment and (end := scheduler.end_time(job)):
        ours["SLURM_JOB_END_TIME"] = str(end)  # newer releases set it themselves
    return {**environment, **ours}


def command(
    settings: TrainJob, environment: Mapping[str, str], logs: Path, arguments: Sequence[str]
) -> list[str]:
    """Return the srun that starts the trainer on every node of the job."""
    nodes = int(environment["SLURM_JOB_NUM_NODES"])
    per_node = int(environment.get("SLURM_NTASKS_PER_NODE", settings.ranks_per_node))
    # srun expands %t and %N in a file name, and takes a backslash for "do not".
    folder = str(logs).replace("%", "%%")
    return [
        "srun",
        f"--nodes={nodes}",
        f"--ntasks={nodes * per_node}",
        f"--ntasks-per-node={per_node}",
        f"--cpu-bind={settings.cpu_bind}",
        "--kill-on-bad-exit=1",
        f"--wait={settings.wait_seconds}",
        "--unbuffered",
        "--open-mode=append",
        f"--output={folder}/rank-%t-%N.log",
        *settings.srun,
        *settings.wrap,
        settings.python or environment.get("GPT2_PYTHON", sys.executable),
        "-m",
        "pretrain.train",
        *arguments,
    ]


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    logs: Path,
    is_replaced: Callable[[], bool] = lambda: False,
) -> Ended:
    """Start the ranks, pass on what srun says, and return how they ended.

    As soon as a later start `is_replaced` this one, srun is killed: when a rank of its own ended, it would
    have the controller kill the step of its number, which is the later start's.
    """
    logs.mkdir(parents=True, exist_ok=True)
    node, rank, code = "", 0, 0
    with subprocess.Popen(
        command, env=dict(environment), stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stderr is not None
        threading.Thread(target=_kill_if, args=(is_replaced, process), daemon=True).start()
        for line in process.stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            if not code and (told := exit_told(line)):
                node, rank, code = told
    status = process.returncode
    status = 128 - status if status < 0 else status
    return Ended(code or status, node, rank, started=any(logs.iterdir()))


def _kill_if(is_replaced: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        if is_replaced():
            # Its children first: one waits for srun's end, and then has the controller kill the step itself.
            for child in processes.children(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            process.kill()
        time.sleep(_LOOK_SECONDS)


def exit_told(line: str) -> tuple[str, int, int] | None:
    """Return (node, rank, exit code) if srun's line tells that a task ended badly."""
    found = _EXITED.match(line.strip())
    if not found:
        return None
    if found[3]:
        return found[1], int(found[2]), int(found[3])
    name = found[4].removesuffix(" (core dumped)")
    return found[1], int(found[2]), 128 + _TASK_SIGNALS.get(name, 0)


def _address(node: str) -> str:
    """Return the node's name if it resolves, else the address that SLURM uses for it."""
    try:
        socket.getaddrinfo(node, None)
    except socket.gaierror:
        return scheduler.node_address(node)
    return node


def _free_port(seed: str) -> int:
    draw = random.Random(seed)
    for _ in range(_TRIES):
        port = draw.choice(_PORTS)
        with socket.socket() as listener:
            try:
                listener.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port among {_TRIES} between {_PORTS.start} and {_PORTS.stop}")
