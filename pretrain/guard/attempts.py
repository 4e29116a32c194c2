"""What the attempts of a run came to: how each began and ended, in `attempts.jsonl`.

One line when an attempt begins, one when it ends, with the reason, the exit code and the step. What
ended a rank other than rank 0 lies in `ends/`, where rank 0's watchdog looks for the cause of its own.
"""

import json
import os
import signal
import time
import traceback
from pathlib import Path
from typing import Any

from conf.exits import Exit, UserError

NAME = "attempts.jsonl"
_ENDS = "ends"
# The same error at the same step: the first may be bad luck, the third is not.
MOST_IDENTICAL = 3
_PACKAGES = {"conf", "data_prep", "pretrain"}
# Signals that a process brings upon itself. SIGKILL comes from outside, and is no crash of ours.
_OWN_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
# Of several ranks that ended, the one whose end explains the others'.
_HANG, _KILLED, _RAISED, _FOLLOWED = range(4)


def begin(run_dir: Path, **facts: object) -> int:
    """Record that an attempt begins; return the number of attempts before it.

    An attempt before it that left no word (its node or launcher was lost) is said to have ended so.
    """
    earlier = read(run_dir)
    began = [line["attempt"] for line in earlier if line.get("event", "begin") == "begin"]
    ended = {line["attempt"] for line in earlier if line.get("event") == "end"}
    if began and began[-1] not in ended:
        reason = "it left no word: its node, its launcher or all its processes were killed"
        end(run_dir, attempt=began[-1], reason=reason, exit_code=None, step=None)
    begun = {"attempt": len(began), "event": "begin", "time": round(time.time(), 3), **facts}
    append(run_dir, begun, sync=True)
    return len(began)


def end(
    run_dir: Path, *, attempt: int, reason: str, exit_code: int | None, step: int | None, **more: Any
) -> None:
    """Record how an attempt ended."""
    facts = {"reason": reason, "exit_code": exit_code, "step": step, **more}
    # Not synced: a busy disk may take seconds, and the other ranks wait.
    append(run_dir, {"attempt": attempt, "event": "end", "time": round(time.time(), 3), **facts}, sync=False)


def read(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of `attempts.jsonl` that tell of an attempt."""
    return [line for line in lines(run_dir) if "attempt" in line]


def lines(run_dir: Path) -> list[dict[str, Any]]:
    """Return all lines of `attempts.jsonl`, a job's too; one that a crash cut off is left out."""
    path = run_dir / NAME
    parsed = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            parsed.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in parsed if isinstance(line, dict)]


def append(run_dir: Path, line: dict[str, Any], *, sync: bool) -> None:
    """Add a line to `attempts.jsonl`, a line of its own also behind one that a crash cut off."""
    descriptor = os.open(run_dir / NAME, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        size = os.fstat(descriptor).st_size
        cut_off = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        file.write((("\n" if cut_off else "") + json.dumps(line) + "\n").encode())
        if sync:
            os.fsync(descriptor)


def alike(run_dir: Path, attempt: int) -> set[int]:
    """Return the attempts before `attempt` that had as many ranks on the same kind of device as it has.

    What an older line does not say is taken to be the same.
    """
    begun = {line["attempt"]: line for line in read(run_dir) if line.get("event") == "begin"}
    own = begun[attempt]
    return {
        number
        for number, line in begun.items()
        if number < attempt and all(line.get(fact, own[fact]) == own[fact] for fact in ("ranks", "device"))
    }


def raised(error: BaseException) -> dict[str, Any]:
    """Return what an exception that ends a rank is remembered by: reason, time and fingerprint."""
    text = " ".join(str(error).split())[:500]
    facts: dict[str, Any] = {"reason": f"{type(error).__name__}: {text}", "cause": _RAISED, "at": time.time()}
    if isinstance(error, UserError):
        facts["reason"] = text
    elif isinstance(error, Exception):
        facts["crash"] = f"{type(error).__name__} in {_place(error)}"
    return facts


def ended_by_signal(number: int, phase: str) -> dict[str, Any]:
    """Return what a rank is remembered by that a signal ended."""
    name = signal.Signals(number).name
    facts: dict[str, Any] = {"reason": f"ended by {name}", "cause": _KILLED, "at": time.time()}
    return {**facts, "crash": f"{name} in {phase}"} if number in _OWN_FAULTS else facts


def hung(reason: str, phase: str, step: int) -> dict[str, Any]:
    """Return what a rank is remembered by that made no progress."""
    return {"reason": reason, "cause": _HANG, "at": time.time(), "crash": f"hang in {phase}", "step": step}


def followed(reason: str) -> dict[str, Any]:
    """Return what a rank is remembered by that was ended because of another one."""
    return {"reason": reason, "cause": _FOLLOWED, "at": time.time()}


def leave_word(run_dir: Path, attempt: int, rank: int, facts: dict[str, Any]) -> None:
    """Tell rank 0's watchdog how this rank ended."""
    directory = run_dir / _ENDS
    directory.mkdir(mode=0o700, exist_ok=True)
    (directory / _word(attempt, rank)).write_text(json.dumps({**facts, "rank": rank}))


def cause(run_dir: Path, attempt: int, own: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of the rank whose end explains this attempt's: rank 0's `own`, or another's."""
    told = [own]
    for path in sorted((run_dir / _ENDS).glob(_word(attempt, None))):
        try:
            told.append(json.loads(path.read_text()))
        except (OSError, ValueError):  # it is just being written
            continue
    return min(told, key=lambda facts: (facts.get("cause", _FOLLOWED), facts.get("at", 0.0)))


def is_loop(run_dir: Path, fingerprint: str | None) -> bool:
    """Say whether a crash with this fingerprint ended the last attempts too, so that it is the third."""
    ends = [line for line in read(run_dir) if line.get("event") == "end"]
    before = [line.get("fingerprint") for line in ends[-(MOST_IDENTICAL - 1) :]]
    return fingerprint is not None and before == [fingerprint] * (MOST_IDENTICAL - 1)


def is_crash(exit_code: int) -> bool:
    """Say whether a scheduler would start the run again after this code, though nobody asked it to stop."""
    return exit_code not in {int(code) for code in Exit} or exit_code == Exit.HANG


def _word(attempt: int, rank: int | None) -> str:
    return f"attempt-{attempt:04d}-rank-{'*' if rank is None else f'{rank:05d}'}.json"


def _place(error: BaseException) -> str:
    """Return the last of our own functions that an exception passed, without its line number."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _in_the_house(frame.filename)]
    last = own[-1] if own else (frames[-1] if frames else None)
    return f"{_in_the_house(last.filename) or Path(last.filename).name} {last.name}" if last else "no frame"


def _in_the_house(filename: str) -> str:
    """Return the path of one of our own modules, from its package on; "" for any other file."""
    parts = Path(filename).parts
    packages = [place for place, part in enumerate(parts[:-1]) if part in _PACKAGES]
    return "/".join(parts[packages[-1] :]) if packages else ""
