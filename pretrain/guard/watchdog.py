"""How a rank is watched: by its parent, a process that does nothing else and so cannot hang with it.

The command forks before it imports anything heavy. The child trains; the parent reads the child's page
of memory ten times a second, hands signals on as a wish to stop, ends the child if it hangs or if a
neighbour died, and leaves with the exit code that says why. Whatever ends a rank is recorded, a SIGKILL
included. Neighbours are the ranks of the same node; on other nodes the same limits run out.

    kill -USR2 PID      a rank prints the stacks of all its threads, and goes on
"""

import contextlib
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conf.exits import Exit
from pretrain.guard import attempts
from pretrain.guard.heartbeat import Page
from pretrain.guard.neighbours import Neighbour, blame
from pretrain.guard.processes import die_with, state

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
DUMP_SIGNAL = signal.SIGUSR2
# Schedulers and launchers both pass a signal on, so one wish may arrive twice at once.
SAME_WISH_SECONDS = 1.0
_POLL_SECONDS = 0.1
# When a neighbour has died: how long a rank may take to fail by itself, with an error that says where.
_DEAD_NEIGHBOUR_SECONDS = 2.0
# When a neighbour has left in an orderly way, which the others must then be doing too.
_GONE_NEIGHBOUR_SECONDS = 30.0
_DUMP_SECONDS = 1.0  # to wait for a dump, of ours or of the neighbours
_MOST_DUMP_BYTES = 1 << 20


LastWords = Callable[[Path, int, int, str], None]  # run directory, attempt, exit code, reason


def is_impatient(number: int, seconds: float) -> bool:
    """Say whether this signal, so long after the first, is a person who does not want to wait for a save.

    SLURM sends SIGTERM again when a pre-empted job's GraceTime is over, and SIGKILL only KillWait later:
    time in which a save that is under way can still be complete.
    """
    return number == signal.SIGINT and seconds >= SAME_WISH_SECONDS


def watched(body: Callable[[Page], None], last_words: LastWords | None = None) -> None:
    """Run `body(page)` in a child process; the parent leaves with the exit code of the attempt.

    `last_words` is called for rank 0 if the child has not noted that it told of this end itself.
    """
    page = Page()
    if sys.platform != "linux":
        return body(page)
    if "LOCAL_RANK" in os.environ:  # a launcher's child; somebody's shell may well end before it
        die_with(os.getppid())
    handled = {*STOP_SIGNALS, DUMP_SIGNAL, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    stacks = os.memfd_create("stacks")
    parent = os.getpid()
    child = os.fork()
    if child:
        raise SystemExit(_Watchdog(child, page, stacks, last_words).watch())
    os.setpgid(0, 0)  # or Ctrl-C would reach it twice, directly and through its watchdog
    die_with(parent)
    for number in STOP_SIGNALS:  # until training listens to them itself
        signal.signal(number, lambda received, _: page.ask(received))
    faulthandler.register(DUMP_SIGNAL, file=stacks, all_threads=True)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
    return body(page)


class _Watchdog:
    """The parent of one rank."""

    def __init__(self, child: int, page: Page, stacks: int, last_words: LastWords | None) -> None:
        self._last_words = last_words
        self._child = child
        self._page = page
        self._stacks = stacks
        self._asked_at = 0.0
        self._shown = 0  # bytes of stacks that have been printed
        self._suspect: tuple[float, str] | None = None  # an overdue beat, seen once
        self._neighbours: list[Neighbour] | None = None
        self._gone_since: dict[int, float] = {}

    def watch(self) -> int:
        """Return the exit code of this process when the child has ended, or has been ended."""
        while True:
            received = signal.sigtimedwait({*STOP_SIGNALS, DUMP_SIGNAL, signal.SIGCHLD}, _POLL_SECONDS)
            pid, status = os.waitpid(self._child, os.WNOHANG)
            if pid:
                return self._finish(os.waitstatus_to_exitcode(status))
            number = received.si_signo if received else 0
            if number in STOP_SIGNALS and self._ends_at_once(number):
                name = signal.Signals(number).name
                return self._end(attempts.followed(f"a second signal, {name}"), 128 + number)
            if number == DUMP_SIGNAL:
                os.kill(self._child, DUMP_SIGNAL)
            self._relay()
            neighbours = self._met()
            if any(each.page.hung for each in neighbours) or self._hangs():
                return self._end_hang(neighbours)
            if dead := self._dead(neighbours):
                return self._end(attempts.followed(dead), 1)

    def _relay(self) -> None:
        """Print the stacks that somebody asked the child for."""
        size = os.fstat(self._stacks).st_size
        if size > self._shown:
            _settle(self._stacks, self._shown)
            data = os.pread(self._stacks, _MOST_DUMP_BYTES, self._shown).decode(errors="replace")
            print(f"watchdog: stacks, as asked:\n{data.rstrip()}", file=sys.stderr, flush=True)
            self._shown += len(data.encode())

    def _ends_at_once(self, number: int) -> bool:
        """Hand the first signal on; say whether this one wants more than that."""
        now = time.monotonic()
        if not self._asked_at:
            self._asked_at = now
            self._page.ask(number)
            return False
        return is_impatient(number, now - self._asked_at)

    def _met(self) -> list[Neighbour]:
        """Return the neighbours, once the ranks have found each other."""
        if self._neighbours is None:
            notes = self._page.notes()
            if "neighbours" not in notes:
                return []
            self._neighbours = []
            for told in notes["neighbours"]:
                with contextlib.suppress(OSError):  # it has just ended, or /proc is closed to us
                    page = Page(f"/proc/{told['watchdog']}/fd/{told['page']}")
                    self._neighbours.append(Neighbour(**{**told, "page": page}))
        return self._neighbours

    def _hangs(self) -> bool:
        """Say whether the child's beat is overdue; two looks must agree, for one may see it half written."""
        beat = self._page.beat()
        overdue = (beat.at, beat.phase) if beat.phase and beat.overdue(time.monotonic()) else None
        certain = overdue is not None and overdue == self._suspect
        self._suspect = overdue
        return certain

    def _dead(self, neighbours: list[Neighbour]) -> str:
        """Return which neighbour's end the child has outlived for too long; "" if it need not be ended."""
        now = time.monotonic()
        for each in neighbours:
            if each.alive:
                continue
            since = self._gone_since.setdefault(each.rank, now)
            in_order = each.page.beat().phase == "leave" and (each.page.status or 0) >= 0
            if in_order and self._page.beat().phase == "leave":
                continue
            if now - since > (_GONE_NEIGHBOUR_SECONDS if in_order else _DEAD_NEIGHBOUR_SECONDS):
                return f"rank {each.rank} died"
        return ""

    def _end_hang(self, neighbours: list[Neighbour]) -> int:
        self._page.write_hung()
        own = Neighbour(self._page.notes().get("rank", 0), self._child, 0, "", self._page)
        reason, phase, step = blame([own, *neighbours])
        text = self._dump(reason)
        self._page.write_dumped()
        deadline = time.monotonic() + _DUMP_SECONDS
        while time.monotonic() < deadline and any(n.alive and not n.page.dumped for n in neighbours):
            time.sleep(_POLL_SECONDS / 5)
        print(text, file=sys.stderr, flush=True)
        return self._end(attempts.hung(reason, phase, step), Exit.HANG)

    def _dump(self, reason: str) -> str:
        """Return the stacks of the child's threads, and leave them in `stacks/` of the run directory."""
        rank = self._page.notes().get("rank", 0)
        before = os.fstat(self._stacks).st_size
        stopped = state(self._child) in "tT"
        if not stopped:
            os.kill(self._child, DUMP_SIGNAL)
            _settle(self._stacks, before)
        data = os.pread(self._stacks, _MOST_DUMP_BYTES, before).decode(errors="replace").rstrip()
        if stopped:
            data = "  stopped by a signal (SIGSTOP or a debugger): it cannot show its stacks"
        shown = data or "  it did not answer: it waits inside the kernel"
        text = f"watchdog: rank {rank}: {reason}; its stacks:\n{shown}"
        if (run_dir := self._page.notes().get("run_dir")) is not None:
            name = f"attempt-{self._page.notes().get('attempt', 0):04d}-rank-{rank:05d}.txt"
            with contextlib.suppress(OSError):  # the storage may be what hangs
                (Path(run_dir) / "stacks").mkdir(mode=0o700, exist_ok=True)
                (Path(run_dir) / "stacks" / name).write_text(text + "\n")
        return text

    def _end(self, facts: dict[str, Any], exit_code: int) -> int:
        """End the child at once, and record why."""
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        self._page.write_status(exit_code)
        return self._recorded(facts, exit_code)

    def _finish(self, status: int) -> int:
        """Leave as the child did: with its exit code, or by the signal that ended it."""
        self._page.write_status(status)
        notes = self._page.notes()
        if status >= 0:
            return self._recorded(notes.get("end", {"reason": "done" if status == 0 else "unknown"}), status)
        number = -status
        code = self._recorded(attempts.ended_by_signal(number, self._page.beat().phase), status)
        if code < 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
            os.kill(os.getpid(), number)
        return code

    def _recorded(self, facts: dict[str, Any], exit_code: int) -> int:
        """Record how the attempt ended, if it had begun; return the exit code, which a crash loop changes."""
        notes, step = self._page.notes(), self._page.beat().step
        if "run_dir" not in notes:
            return exit_code
        run_dir, attempt, rank = Path(notes["run_dir"]), int(notes["attempt"]), int(notes["rank"])
        crashed = attempts.is_crash(exit_code)
        facts = {"step": step, **facts, "rank": rank}
        try:
            if crashed and rank:
                attempts.leave_word(run_dir, attempt, rank, facts)
                self._page.write_told()
            elif crashed:
                self._await_neighbours()
                facts = attempts.cause(run_dir, attempt, facts)
            fingerprint = f"step {facts['step']}: {facts['crash']}" if "crash" in facts and crashed else None
            if looped := attempts.is_loop(run_dir, fingerprint):
                print(_LOOP.format(fingerprint, attempts.MOST_IDENTICAL), file=sys.stderr, flush=True)
                exit_code = Exit.REFUSED
            if not rank:
                more = {"rank": facts["rank"], "fingerprint": fingerprint, "loop": looped}
                said = int(exit_code) if exit_code >= 0 else 128 - exit_code  # as a shell says it
                reason, at = facts["reason"], facts["step"]
                attempts.end(run_dir, attempt=attempt, reason=reason, exit_code=said, step=at, **more)
                if self._last_words and notes.get("told") != said:
                    self._last_words(run_dir, attempt, said, f"{reason}, after step {at}")
        except OSError as error:
            print(f"watchdog: could not record the end: {error}", file=sys.stderr, flush=True)
        return exit_code

    def _await_neighbours(self) -> None:
        """Give the neighbours time to say how they ended; one of them may be the cause."""
        deadline = time.monotonic() + _DEAD_NEIGHBOUR_SECONDS + 2 * _POLL_SECONDS
        while time.monotonic() < deadline and any(each.silent for each in self._met()):
            time.sleep(_POLL_SECONDS / 5)


_LOOP = (
    "watchdog: error: {} ended {} attempts in a row; another would end there too. Mend the cause, or begin "
    f"from an earlier checkpoint, then start the run again [exit {int(Exit.REFUSED)}]"
)


def _settle(descriptor: int, before: int) -> None:
    """Return when a dump is written to the end, or does not come."""
    deadline = time.monotonic() + _DUMP_SECONDS
    last = before
    while time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS / 2)
        size = os.fstat(descriptor).st_size
        if size > before and size == last:
            return
        last = size
