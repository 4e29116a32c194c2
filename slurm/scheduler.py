"""How to ask SLURM and what of its answers can be believed: the only module that runs its commands.

`srun`'s status is 0 for some cancelled jobs; `sacct` exists only with a database; the JSON of `squeue`
differs between releases. So the questions here use formats that have not changed since 22.05.
"""

import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from slurm.asking import Answer, ask

# A controller that restarts is back within a minute or two; a dead one is somebody's night shift.
_PATIENCE_SECONDS = 600.0
_PAUSE_SECONDS = 5.0

# Of a job that has not ended.
ALIVE = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "STOPPED"}
_RUNNING_TOO = {"SIGNALING", "RESIZING"}


@dataclass(frozen=True)
class Partition:
    """A partition as `sinfo` shows it to this user."""

    name: str
    is_up: bool
    time_limit_seconds: float  # infinity for none
    nodes: int  # that are not down or drained
    most_gpus: int  # of one node
    most_cpus: int
    is_default: bool


def insist(*command: str) -> Answer:
    """Ask until the controller answers, for ten minutes: it may be restarting."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        answer = ask(*command)
        away = answer.code and re.search(r"contact|connect|timed out|Zero Bytes", answer.error, re.I)
        if not away or time.monotonic() > deadline:
            return answer
        time.sleep(_PAUSE_SECONDS)


def own_job() -> str:
    """Return how this process's job is to be named to SLURM.

    The last task of an array to start bears the array's own id in SLURM_JOB_ID: to requeue that id would
    requeue every task.
    """
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def job_state(job: str) -> str:
    """Return RUNNING, PENDING, COMPLETING (cancelled or being requeued), …; "" for a job that is unknown.

    Of an array, the state of a task that has not ended; if all have, of one that failed. While a signal is
    on its way, or nodes come or go, squeue tells that in the place of RUNNING.
    """
    answer = insist("squeue", "--noheader", f"--jobs={job}", "--states=all", "--format=%T")
    told = answer.out.split() if answer.code == 0 else []
    states = ["RUNNING" if state in _RUNNING_TOO else state for state in told]
    return min(states, key=lambda state: (state not in ALIVE, state == "COMPLETED"), default="")


def pending_reason(job: str) -> str:
    """Return what a pending job waits for, in SLURM's word: Resources, Dependency, JobHeldUser, …; or ""."""
    answer = insist("squeue", "--noheader", f"--jobs={job}", "--states=PENDING", "--format=%r")
    reason = answer.out.partition("\n")[0] if answer.code == 0 else ""
    return "" if reason == "None" else reason


def restarts(job: str) -> int | None:
    """Return how often the job was started again; None if SLURM does not say.

    More than the caller knows of: the caller is on a node that was cut off, and runs on while its job has
    been started elsewhere, under the same id and in the same state.
    """
    answer = insist("scontrol", "--oneliner", "show", "job", job)
    found = re.search(r"\bRestarts=(\d+)", answer.out)
    return int(found[1]) if found else None


def end_time(job: str) -> int | None:
    """Return the Unix time at which the job's time is over; None if it has no limit."""
    answer = insist("squeue", "--noheader", f"--jobs={job}", "--format=%e")
    try:
        return int(time.mktime(time.strptime(answer.out, "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return None


def hosts(nodes: str) -> list[str]:
    """Return the names in a node list such as n[1-3,5]; needs no controller."""
    answer = ask("scontrol", "show", "hostnames", nodes)
    if answer.code or not answer.out:
        raise OSError(f"scontrol show hostnames {nodes}: {answer.error}")
    return answer.out.split()


def node_address(node: str) -> str:
    """Return the address that SLURM itself uses for a node, where its name does not resolve."""
    answer = insist("scontrol", "--oneliner", "show", "node", node)
    found = re.search(r"\bNodeAddr=(\S+)", answer.out)
    if not found:
        raise OSError(f"scontrol show node {node}: {answer.error or answer.out}")
    return found[1]


def down(nodes: Sequence[str]) -> list[str]:
    """Return those of the nodes that SLURM holds for down, failed or not responding."""
    answer = ask("sinfo", "--noheader", "--Node", f"--nodes={','.join(nodes)}", "--format=%N %T")
    states = [line.split() for line in answer.out.splitlines()]
    return sorted({node for node, state in states if re.search(r"down|fail|\*", state)})


def partitions() -> list[Partition]:
    """Return the partitions that this user may see."""
    form = "%P|%a|%l|%N|%G|%c|%T|%D"
    answer = insist("sinfo", "--noheader", f"--format={form}")
    if answer.code:
        # Of several lines the last says what all of them came to.
        why = re.sub(r"^sinfo: (error|fatal): ", "", answer.error.strip().rpartition("\n")[2])
        raise OSError(f"sinfo: {why}")
    found: dict[str, Partition] = {}
    for line in answer.out.splitlines():
        name, up, limit, _, gres, cpus, state, count = line.split("|")
        name, is_default = name.rstrip("*"), name.endswith("*")
        usable = int(count) if not re.search(r"down|drain|fail|\*", state) else 0
        before = found.get(name, Partition(name, False, 0.0, 0, 0, 0, is_default))
        found[name] = Partition(
            name,
            up == "up",
            seconds(limit),
            before.nodes + usable,
            max(before.most_gpus, _gpus(gres)),
            max(before.most_cpus, int(cpus.rstrip("+"))),
            is_default,
        )
    return list(found.values())


def seconds(limit: str) -> float:
    """Return SLURM's notation of a time (minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s) in seconds."""
    if limit.lower() in ("infinite", "unlimited"):
        return float("inf")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", limit):
        raise ValueError(f"{limit!r} is not a time; write minutes, h:m:s or d-h:m:s")
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if days:
        parts += [0] * (3 - len(parts))
    elif len(parts) < 3:
        parts = [0, *parts, *[0] * (2 - len(parts))]
    hours, minutes, left = parts
    return 86400.0 * int(days or 0) + 3600 * hours + 60 * minutes + left


def submit(arguments: Sequence[str], environment: dict[str, str]) -> str:
    """Submit a job; return its id. Raises OSError with SLURM's words if it is refused."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_", "SRUN_"))
    }
    kept = {"SLURM_CONF": os.environ["SLURM_CONF"]} if "SLURM_CONF" in os.environ else {}
    done = subprocess.run(
        ["sbatch", "--parsable", *arguments],
        capture_output=True,
        text=True,
        env={**clean, **kept, **environment},
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise OSError(f"sbatch: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]


def requeue(job: str, *, exclude: Sequence[str] = ()) -> str:
    """Put the running job back into the queue, from now on without some nodes; return "" or why not.

    The nodes can be named only while the job is pending, which it is from here until SLURM has ended
    its batch script: the caller must survive a SIGTERM.
    """
    answer = insist("scontrol", "requeue", job)
    if answer.code:
        return answer.error or f"scontrol requeue left with {answer.code}"
    if exclude:
        before = ask("squeue", "--noheader", f"--jobs={job}", "--format=%x").out
        named = [*exclude, before] if before not in ("", "(null)", "N/A") else exclude
        answer = insist("scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(named)}")
        return answer.error
    return ""


def _gpus(gres: str) -> int:
    """Return the number of GPUs in a gres such as gpu:a100:4(S:0-1),tmpdisk:1."""
    return sum(int(count) for count in re.findall(r"\bgpu(?::[^:,(\s]+)?:(\d+)", gres))
