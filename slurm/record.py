"""What the jobs of a run came to, as lines of `attempts.jsonl` beside those of the trainer.

One line `launch` when a job starts or is started again, one line `outcome` when its ranks have ended. A
launch without an outcome was cut short: its first node was lost, or SLURM ended it in between.
"""

import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from conf.exits import Exit
from pretrain.guard import attempts

# Of a rank that was ended from outside before it could listen: preempted while it still imported.
TERMINATED = 128 + signal.SIGTERM
NO_CRASHES = (Exit.REQUEUE, TERMINATED)
# The same node at fault so often is not bad luck.
_FAULTS_OF_A_BAD_NODE = 2
# After these a job starts no more; all others may yet be started again by SLURM.
_LAST_WORDS = ("done", "stopped", "failed")
_NODES = ("faulty_nodes", "excluded_nodes")  # JSON makes lists of them


@dataclass(frozen=True)
class Outcome:
    """How one start of a job ended."""

    job: str
    restart: int  # 0 for the first start of a job
    exit_code: int | None  # of the rank that ended first; None if nobody was left to tell
    reason: str
    decision: str  # requeue | done | stopped | failed | left | lost
    from_step: int  # of the newest checkpoint
    to_step: int
    seconds: float = 0.0
    faulty_nodes: tuple[str, ...] = ()
    excluded_nodes: tuple[str, ...] = ()

    @property
    def is_crash(self) -> bool:
        """Say whether it ended by itself, badly."""
        return self.decision in ("requeue", "failed") and self.exit_code not in NO_CRASHES


def begin(run_dir: Path, job: str, restart: int, **facts: Any) -> None:
    """Record that a job starts."""
    _append(run_dir, {"event": "launch", "job": job, "restart": restart, **facts})


def end(run_dir: Path, outcome: Outcome) -> None:
    """Record how it ended."""
    _append(run_dir, {"event": "outcome", **asdict(outcome)})


def outcomes(run_dir: Path) -> list[Outcome]:
    """Return how the earlier starts ended, oldest first."""
    lines = [line for line in attempts.lines(run_dir) if line.get("event") == "outcome"]
    names = {each.name for each in fields(Outcome)}
    told = [{name: value for name, value in line.items() if name in names} for line in lines]
    return [Outcome(**{**line, **{name: tuple(line[name]) for name in _NODES}}) for line in told]


def unended(run_dir: Path) -> list[dict[str, Any]]:
    """Return the launches of which nobody told the end."""
    lines = attempts.lines(run_dir)
    ended = {(line["job"], line["restart"]) for line in lines if line.get("event") == "outcome"}
    begun = [line for line in lines if line.get("event") == "launch"]
    return [line for line in begun if (line["job"], line["restart"]) not in ended]


def unsettled(run_dir: Path) -> list[str]:
    """Return the jobs that have begun and have not said that they have ended for good, oldest first."""
    last = {line["job"]: line.get("decision", "") for line in attempts.lines(run_dir) if "job" in line}
    return [job for job, decision in last.items() if decision not in _LAST_WORDS]


def is_replaced(run_dir: Path, job: str, restart: int) -> bool:
    """Say whether a later start of the job has begun, so that this one, on a node that was cut off, is over.

    Another job's start says nothing of this one: whose the run is, is for the lease to say.
    """
    lines = [line for line in attempts.lines(run_dir) if line.get("event") == "launch"]
    starts = [line["restart"] for line in lines if line["job"] == job]
    return restart in starts and starts[-1] != restart


def cause(run_dir: Path, since: float) -> str:
    """Return the trainer's own word on why the attempt ended that began after `since`, a Unix time.

    "" if there is none. Rank 0 writes it for all ranks, unless it was killed because another one had died:
    then that one's own word is there.
    """
    lines = [line for line in attempts.read(run_dir) if line.get("time", 0.0) >= since]
    begun = [line["attempt"] for line in lines if line.get("event") == "begin"]
    if not begun:
        return ""
    ends = [line for line in lines if line.get("event") == "end" and line["attempt"] == begun[-1]]
    told = ends[-1] if ends else attempts.cause(run_dir, begun[-1], {})
    return str(told.get("reason", ""))


def bad_nodes(history: Sequence[Outcome]) -> list[str]:
    """Return the nodes that were at fault repeatedly."""
    faults = Counter(node for outcome in history for node in outcome.faulty_nodes)
    return sorted(node for node, count in faults.items() if count >= _FAULTS_OF_A_BAD_NODE)


def _append(run_dir: Path, line: dict[str, Any]) -> None:
    attempts.append(run_dir, {**line, "time": round(time.time(), 3)}, sync=True)
