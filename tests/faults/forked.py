"""A job that is killed or failed at one of its calls on the disk, in a forked child: no ptrace, 20 ms."""

import errno
import os
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from faults import job, scratch, shim
from faults.sweep import events_in, verdict

_KILLED = 137
# What a full or failing disk refuses.
FAILING = ("open", "write", "fsync", "rename", "mkdir")


@cache
def calls_of(world_size: int) -> tuple[str, ...]:
    """Return the names of the changing calls that a job makes, in order."""
    with scratch.directory() as base, shim.intercepted(lambda place, name: None) as calls:
        writers = [job.local_writer(rank) for rank in range(world_size)]
        job.run(base / "run", writers, lambda what, place: None)
    return tuple(calls.names)


def forked(place: int, fault: str, *, lasting: bool = False, world_size: int = 1) -> str | None:
    """Run a job in a child whose changing call number `place` meets `fault`, and judge it."""
    name_there = calls_of(world_size)[place]

    def before(at: int, name: str) -> int | None:
        if at != place and not (lasting and at > place and name == name_there):
            return None
        if fault == "KILL":
            os._exit(_KILLED)
        if fault == "short":
            return 1
        number = getattr(errno, fault)
        raise OSError(number, os.strerror(number))

    with scratch.directory() as base:
        code = _in_child(base, before, world_size)
        if (fault == "KILL") != (code == _KILLED):
            return f"the child ended with {code}"
        events = events_in((base / "events").read_text())
        if fault == "short" and any(what != "saved" for what, _ in events[1:]):
            return f"a short write was not carried on with: {events}"
        return verdict(base, events, code)


def killed_often(places: Sequence[int], world_size: int = 2) -> str | None:
    """Run a job that is killed at call `places[0]`, its successor at call `places[1]`, …; judge the last.

    A successor that ends before its turn has come ends well.
    """
    with scratch.directory() as base:
        for place in places:
            code = _in_child(base, _killer(place), world_size)
            if code not in (0, _KILLED):
                return f"a successor ended with {code}"
        return verdict(base, events_in((base / "events").read_text()), _KILLED)


def _killer(place: int) -> Callable[[int, str], None]:
    return lambda at, _: os._exit(_KILLED) if at == place else None


def _in_child(base: Path, before: Callable[[int, str], int | None], world_size: int) -> int:
    """Run a job in a child; return its exit code."""
    (base / "world_size").write_text(str(world_size))
    child = os.fork()
    if child == 0:
        os._exit(_child(base, before, world_size))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _child(base: Path, before: Callable[[int, str], int | None], world_size: int) -> int:
    writers = [job.local_writer(rank) for rank in range(world_size)]
    events = (base / "events").open("a")

    def report(what: str, place: int) -> None:
        print(what, place, file=events, flush=True)  # buffered writes do not pass through `os`

    try:
        with shim.intercepted(before):
            return job.run(base / "run", writers, report)
    except OSError:
        return 17
    except BaseException:  # a child has nobody to raise to
        traceback.print_exc()
        return 1
