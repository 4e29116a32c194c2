"""What becomes of a job when its ranks have ended: requeued, finished, or stopped for a person to look at.

Pure: everything that decides is handed in, and the same facts always give the same answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from conf.exits import Exit
from slurm.record import NO_CRASHES, TERMINATED, Outcome

# Another start would end the same way: a person must change something first.
_FINAL = {
    Exit.CONFIG,
    Exit.DATASET,
    Exit.NO_CHECKPOINT,
    Exit.CORRUPT,
    Exit.LEASE_HELD,
    Exit.DISK,
    Exit.REFUSED,
}
# In the words of CUDA and NCCL. A device-side assert is an index out of range, in the program.
_HARDWARE = re.compile(
    r"NCCL|\bECC\b|CUDA error: (?!device-side assert|out of memory)|CUDA-capable device|GPU is lost"
)


@dataclass(frozen=True)
class Facts:
    """How a start of a job ended."""

    exit_code: int  # of the rank that ended first
    is_done: bool  # nothing of the run is left to train, by its checkpoints
    asked_by_user: bool  # a file STOP that is not the supervisor's
    job_state: str  # as SLURM tells it now
    crashes: int  # in a row that came no further than the same checkpoint, with this one if it is one
    most_crashes: int


@dataclass(frozen=True)
class Decision:
    """What to do, and why."""

    verdict: str  # requeue | done | stopped | failed | left
    reason: str
    exit_code: int  # of the batch script, if it is not requeued


def decide(facts: Facts) -> Decision:
    """Return what becomes of the job."""
    code = facts.exit_code
    if facts.is_done:
        return Decision("done", "nothing is left to train", 0)
    if code == Exit.REQUEUE and facts.asked_by_user:
        return Decision("stopped", "the file STOP asked for it; submit again to go on", 0)
    if facts.job_state != "RUNNING":
        # Cancelled, or being requeued by SLURM itself. To requeue a job that its user has just cancelled
        # would bring it back to life.
        state = facts.job_state or "unknown to SLURM"
        return Decision("left", f"the job is {state}, so somebody else decides", code)
    if code == Exit.REQUEUE:
        return Decision("requeue", "saved when asked to stop", 0)
    crashes = facts.crashes
    if code in _FINAL or crashes >= facts.most_crashes:
        many = f"{crashes} crashes in a row at the same checkpoint"
        why = "another start would end the same way" if code in _FINAL else many
        return Decision("failed", f"{_named(code)}: {why}", code or 1)
    return Decision("requeue", _named(code), 0)


def crashes_at(step: int, history: Sequence[Outcome], exit_code: int) -> int:
    """Return how many starts in a row, with the one that has just ended, crashed with `step` as their newest.

    A crash that always comes at the same step may well save before it, the first time. Starts that were
    lost with their node, or ended from outside, neither count nor interrupt the row.
    """
    if exit_code in NO_CRASHES:
        return 0
    count = 1
    for outcome in reversed(history):
        lost = outcome.decision in ("lost", "left") or outcome.exit_code == TERMINATED
        if outcome.to_step != step or not (outcome.is_crash or lost):
            break
        count += outcome.is_crash
    return count


def is_of_the_node(exit_code: int, cause: str) -> bool:
    """Say whether a crash speaks of the node on which the first rank ended, not of the program.

    An error that the program raises comes back on any node, so it is no reason to avoid one.
    """
    if exit_code in NO_CRASHES:
        return False
    return exit_code > 128 or exit_code == Exit.HANG or bool(_HARDWARE.search(cause))


def _named(code: int) -> str:
    if code == 0:
        return "the ranks left before the last step, and none said why"
    known = {int(each): each.name.lower().replace("_", " ") for each in Exit}
    if code > 128:
        return f"a rank was ended by signal {code - 128}"
    return f"a rank left with exit code {code}" + (f" ({known[code]})" if code in known else "")
