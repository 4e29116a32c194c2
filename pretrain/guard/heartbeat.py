"""Where a rank says how it is: a page of memory that outlives whatever happens to the rank.

The rank writes what it does, since when and for how long it may; its watchdog, another process, reads
it without asking the rank for anything. The page is anonymous shared memory, so there is no file to
clean up and no disk to wait for. Writing a beat costs about two microseconds.
"""

import json
import mmap
import os
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

# What a rank does, in the order in which it comes to it after a step: whoever is behind holds the others.
PHASES: tuple[str, ...] = ("startup", "report", "evaluate", "save", "data", "step", "leave")

_PAGE_BYTES = 32 * 1024
_BEAT = struct.Struct("=qqq16s")  # monotonic ns, budget ns, step, phase
_BEAT_AT = 0
_NUMBER = struct.Struct("=q")
_ASKED_AT, _VERDICT_AT, _DUMPED_AT, _ENDED_AT, _TOLD_AT, _NOTE_BYTES_AT, _NOTE_AT = range(64, 120, 8)
_SECOND = 10**9
_REMEMBERED = 64  # durations of a phase, of which the median is taken
_MEDIAN_EVERY = 16  # entries of a phase between two looks at its median


@dataclass(frozen=True)
class WatchdogConfig:
    """How many seconds a rank may spend in one phase without a sign of progress."""

    enabled: bool = True
    startup_seconds: float = 1800.0  # and for the first step, which compiles
    data_seconds: float = 600.0  # waiting for one batch
    step_seconds: float = 600.0
    evaluate_seconds: float = 600.0  # one forward pass of a validation
    save_seconds: float = 3600.0  # slow storage is not a hang
    report_seconds: float = 600.0
    leave_seconds: float = 300.0  # closing what is open when the run ends
    times_median: float = 20.0  # and never fewer than so many medians of the phase's last durations

    def __post_init__(self) -> None:
        for phase in PHASES:
            if not self.seconds(phase) > 0:
                raise ValueError(
                    f"watchdog.{phase}_seconds is {self.seconds(phase)}; give a number above 0, "
                    "or watchdog.enabled=false"
                )
        if not self.times_median >= 1:
            raise ValueError(f"watchdog.times_median {self.times_median} must be at least 1")

    def seconds(self, phase: str) -> float:
        """Return the configured limit of a phase."""
        return float(getattr(self, f"{phase}_seconds"))


class Beat(NamedTuple):
    """The last sign of life of a rank."""

    at: float  # seconds of the monotonic clock, which all processes of a node share
    budget: float  # seconds until the next beat must come
    step: int
    phase: str

    def overdue(self, now: float) -> bool:
        """Say whether the rank should have been heard of."""
        return now - self.at > self.budget

    @property
    def place(self) -> tuple[int, int]:
        """Return how far the rank has come, to be compared with another's."""
        return self.step, PHASES.index(self.phase) if self.phase in PHASES else 0


class Page:
    """The shared memory between one rank, its watchdog and the watchdogs of its neighbours."""

    def __init__(self, path: str | None = None) -> None:
        """Make a page, or map the one that a neighbour's watchdog shows at `path`, to read it."""
        self.descriptor = -1
        if path is not None:
            descriptor = os.open(path, os.O_RDONLY)
            self._memory = mmap.mmap(descriptor, _PAGE_BYTES, access=mmap.ACCESS_READ)
            os.close(descriptor)
        elif sys.platform == "linux":
            self.descriptor = os.memfd_create("heartbeat")
            os.ftruncate(self.descriptor, _PAGE_BYTES)
            self._memory = mmap.mmap(self.descriptor, _PAGE_BYTES)
        else:
            self._memory = mmap.mmap(-1, _PAGE_BYTES)

    def write_beat(self, phase: bytes, step: int, budget_ns: int) -> None:
        """Say what this rank does from now on."""
        _BEAT.pack_into(self._memory, _BEAT_AT, time.monotonic_ns(), budget_ns, step, phase)

    def beat(self) -> Beat:
        """Return the last beat. It may be torn if read while it is written: look twice before acting."""
        at, budget, step, phase = _BEAT.unpack_from(self._memory, _BEAT_AT)
        name = phase.rstrip(b"\0").decode(errors="replace")
        return Beat(at / _SECOND, budget / _SECOND, step, name)

    @property
    def asked(self) -> int:
        """Return the number of the signal that asked this rank to stop; 0 for none."""
        return self._number(_ASKED_AT)

    def ask(self, signal_number: int) -> None:
        """Ask the rank to stop after a step."""
        _NUMBER.pack_into(self._memory, _ASKED_AT, signal_number)

    @property
    def hung(self) -> bool:
        """Say whether the watchdog has found this rank, or a neighbour, to hang."""
        return bool(self._number(_VERDICT_AT))

    def write_hung(self) -> None:
        """Tell the neighbours' watchdogs that there is a hang."""
        _NUMBER.pack_into(self._memory, _VERDICT_AT, 1)

    @property
    def dumped(self) -> bool:
        """Say whether the rank's stacks have been taken, so that it may be disturbed."""
        return bool(self._number(_DUMPED_AT))

    def write_dumped(self) -> None:
        """Say that the rank's stacks have been taken."""
        _NUMBER.pack_into(self._memory, _DUMPED_AT, 1)

    @property
    def status(self) -> int | None:
        """Return the exit code of the rank, minus the signal's number if one ended it; None if it runs."""
        ended = self._number(_ENDED_AT)
        return ended - 1000 if ended else None

    def write_status(self, status: int) -> None:
        """Say how the rank ended."""
        _NUMBER.pack_into(self._memory, _ENDED_AT, status + 1000)

    @property
    def told(self) -> bool:
        """Say whether the watchdog has recorded how the rank ended."""
        return bool(self._number(_TOLD_AT))

    def write_told(self) -> None:
        """Say that it is recorded how the rank ended."""
        _NUMBER.pack_into(self._memory, _TOLD_AT, 1)

    def note(self, **facts: Any) -> None:
        """Add facts to what the watchdog will tell of this rank."""
        data = json.dumps({**self.notes(), **facts}).encode()
        if _NOTE_AT + len(data) <= _PAGE_BYTES:
            _NUMBER.pack_into(self._memory, _NOTE_BYTES_AT, 0)
            self._memory[_NOTE_AT : _NOTE_AT + len(data)] = data
            _NUMBER.pack_into(self._memory, _NOTE_BYTES_AT, len(data))

    def notes(self) -> dict[str, Any]:
        """Return the facts noted so far; none if the rank died while it wrote them."""
        size = self._number(_NOTE_BYTES_AT)
        try:
            return json.loads(self._memory[_NOTE_AT : _NOTE_AT + size]) if size else {}
        except ValueError:
            return {}

    def _number(self, offset: int) -> int:
        return _NUMBER.unpack_from(self._memory, offset)[0]


class Heart:
    """What a rank holds to say what it does."""

    def __init__(self, page: Page, config: WatchdogConfig | None = None) -> None:
        self._page = page
        self._config = config or WatchdogConfig()
        self._phase = "startup"
        self._step = 0
        self._entered_at = time.monotonic()
        self._budgets_ns: dict[str, int] = {}
        self._durations: dict[str, deque[float]] = {phase: deque(maxlen=_REMEMBERED) for phase in PHASES}
        self._entries: dict[str, int] = dict.fromkeys(PHASES, 0)
        self.enter("startup", 0)

    def enter(self, phase: str, step: int) -> None:
        """Say that this rank begins `phase` at `step` (optimizer steps done)."""
        now = time.monotonic()
        self._durations[self._phase].append(now - self._entered_at)
        self._entered_at = now
        self._phase, self._step = phase, step
        entries = self._entries[phase] = self._entries[phase] + 1
        if entries <= 2 or entries % _MEDIAN_EVERY == 0:
            self._budgets_ns[phase] = self._budget_ns(phase)
        self.beat()

    def beat(self) -> None:
        """Say that this rank goes on with what it does."""
        self._page.write_beat(self._phase.encode(), self._step, self._budgets_ns[self._phase])

    def _budget_ns(self, phase: str) -> int:
        config = self._config
        if not config.enabled:
            return 2**62
        seconds = config.seconds(phase)
        if phase in ("step", "evaluate") and self._entries[phase] == 1:  # it compiles what it computes
            seconds = max(seconds, config.startup_seconds)
        if self._durations[phase]:
            seconds = max(seconds, config.times_median * median(self._durations[phase]))
        return round(seconds * _SECOND)
