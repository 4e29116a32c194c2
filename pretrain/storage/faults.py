"""Where a running program fails on purpose: named points, compiled in, silent unless FAULTS is set.

    FAULTS=commit.renamed:kill        SIGKILL at the first visit of that point
    FAULTS=write.synced:eio@3#1       OSError(EIO) at the third visit, on rank 1 only
    FAULTS=seed:7:0.01                at every visit, with probability 0.01, one fault of the table

Several of them are joined by commas. What is armed, and what fires, is printed to standard error in
the form that repeats it. A point that is off costs one comparison.
"""

import errno
import os
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from conf.exits import ConfigError


def _send(number: signal.Signals) -> Callable[[str], None]:
    return lambda _: os.kill(os.getpid(), number)


def _raise(number: int) -> Callable[[str], NoReturn]:
    def fail(name: str) -> NoReturn:
        raise OSError(number, f"{os.strerror(number)} (planted at {name})")

    return fail


ACTIONS: dict[str, Callable[[str], None]] = {
    "kill": _send(signal.SIGKILL),
    "stop": _send(signal.SIGSTOP),
    "term": _send(signal.SIGTERM),
    "eio": _raise(errno.EIO),
    "enospc": _raise(errno.ENOSPC),
    "edquot": _raise(errno.EDQUOT),
}
# SIGSTOP and SIGTERM are for named tests: a random one would hang a soak or end it early.
_RANDOM_ACTIONS = ("kill", "eio", "enospc", "edquot")
_DEFAULT_PROBABILITY = 0.01
_NAMED = re.compile(r"(?P<name>[\w.-]+):(?P<action>\w+)(@(?P<visit>\d+))?(#(?P<rank>\d+))?")
_SEEDED = re.compile(r"seed:(?P<seed>\d+)(:(?P<probability>0?\.\d+|[01]))?")


class _Plan:
    """The armed faults of this process, and how often each point was visited."""

    def __init__(self, text: str, rank: int) -> None:
        self.visits: Counter[str] = Counter()
        self.named: dict[tuple[str, int], str] = {}
        self.random: random.Random | None = None
        self.probability = 0.0
        for part in text.split(","):
            self._arm(part.strip(), rank)
        print(f"faults: armed FAULTS={text} rank={rank}", file=sys.stderr, flush=True)

    def _arm(self, part: str, rank: int) -> None:
        if found := _SEEDED.fullmatch(part):
            self.random = random.Random(f"{found['seed']}/{rank}")
            self.probability = float(found["probability"] or _DEFAULT_PROBABILITY)
        elif (found := _NAMED.fullmatch(part)) and found["action"] in ACTIONS:
            if found["rank"] is None or int(found["rank"]) == rank:
                self.named[found["name"], int(found["visit"] or 1)] = found["action"]
        else:
            raise ConfigError(
                f"FAULTS={part} is neither seed:N[:probability] nor point:action[@visit][#rank]; "
                f"actions: {', '.join(ACTIONS)}"
            )

    def visit(self, name: str) -> None:
        self.visits[name] += 1
        action = self.named.get((name, self.visits[name]))
        if action is None and self.random and self.random.random() < self.probability:
            action = self.random.choice(_RANDOM_ACTIONS)
        if action:
            print(f"faults: FAULTS={name}:{action}@{self.visits[name]}", file=sys.stderr, flush=True)
            ACTIONS[action](name)


def configure(text: str | None, *, rank: int = 0) -> None:
    """Arm the faults that `text` describes in this process; None or "" switches all of them off.

    Raises ConfigError for a text that describes none.
    """
    global _plan  # noqa: PLW0603 - one plan per process is the point: every caller shares it
    _plan = _Plan(text, rank) if text else None


def fault_point(name: str) -> None:
    """Fail here if the plan says so; do nothing, cheaply, otherwise."""
    if _plan is not None:
        _plan.visit(name)


_plan: _Plan | None = None
# The one setting read from the environment below the door: it must reach every process of a job,
# also those that die before they have a configuration.
configure(os.environ.get("FAULTS"), rank=int(os.environ.get("RANK", "0")))
