"""Every way a job can die or be failed at one of its own calls that change the disk, one at a time.

Here the kernel does it, by strace; `forked` does it over `os`, without. Both share this judge.

    cd tests && python -m faults.sweep        all of it by strace, and the table
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from faults import job, scratch
from pretrain.storage import commit

ERRORS = ("ENOSPC", "EDQUOT", "EIO")
_CALLS = "openat,write,fsync,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,utimensat"
_JOB = (sys.executable, "-I", "-S", "-B", job.__file__)
_KILLED = {-9, 137}  # as the kernel says it, as strace hands it on
_WORKERS = 2


@dataclass(frozen=True)
class Point:
    """One fault: the `number`-th call named `call`, counted per process, and what happens there."""

    call: str
    number: int
    fault: str  # "KILL", an errno name, "short", "lie"
    lasting: bool = False  # every later call of that name fails as well
    world_size: int = 1
    rank: int = 0


def judged(run_dir: Path, events: Sequence[tuple[str, int]], code: int) -> str | None:
    """Return what is wrong with a job that reported `events` and ended with `code`; None if nothing.

    The job is started once more without a fault: it must find the last save that was promised or the
    one in the making, go on, and leave what a job without any fault leaves.
    """
    saved = [place for what, place in events if what == "saved"]
    failed = [place for what, place in events if what == "failed"]
    last = len(job.SCHEDULE) - 1
    if code == 0 and saved[-1:] != [last]:
        return f"exit 0, and the last save is not done: {events}"
    if code == 0 and sorted(saved + failed) != list(range(last + 1)):
        return f"a save went missing without a word: {events}"
    again: list[tuple[str, int]] = []
    writers = [job.local_writer(rank) for rank in range(2)]
    try:
        ended = job.run(
            run_dir, writers[: _ranks_in(run_dir)], lambda what, place: again.append((what, place))
        )
    except Exception as error:
        return f"the restart failed: {type(error).__name__}: {error}"
    resumed = again[0][1]
    # What a job resumed from is a promise, too: by then it is the newest.
    promised = max([*saved, *(place for what, place in events if what == "resumed")], default=-1)
    begun = max([promised, *failed]) + 1
    if not promised <= resumed <= begun:
        return f"save {promised} was promised, {begun} begun, {resumed} resumed"
    if ended != 0 or any(what == "failed" for what, _ in again):
        return f"the restart did not finish: {again}"
    return None


def _ranks_in(run_dir: Path) -> int:
    return int((run_dir.parent / "world_size").read_text())


def same_end(run_dir: Path) -> str | None:
    """Return how the finished directory differs from that of a job without faults; None if not."""
    state, expected = job.final_state(run_dir), undisturbed(_ranks_in(run_dir))
    if state == expected:
        return None
    return f"other files at the end: {sorted(set(state) ^ set(expected)) or 'same names, other bytes'}"


def sound_end(run_dir: Path) -> str | None:
    """Return what is wrong with a finished directory that lacks a failed save; None if nothing.

    The failed one's place is taken by the save before it.
    """
    root = run_dir / "checkpoints"
    found = [commit.Checkpoint(path, commit.verify(path)) for path in commit.checkpoints(root)]
    saves = [job.saved_in(each) for each in found]
    permanent = [save for save in saves[2:] if save.step % job.PERMANENT_EVERY]
    left_over = {path.name for path in root.iterdir()} - {"latest", *(each.path.name for each in found)}
    if saves[:1] != [job.SCHEDULE[-1]] or len(saves) < 2 or permanent or left_over:
        return f"at the end there are {saves} and {left_over}"
    return None


@cache
def undisturbed(world_size: int) -> dict[str, bytes]:
    """Return the final state of a job that nothing happened to."""
    with scratch.directory() as base:
        writers = [job.local_writer(rank) for rank in range(world_size)]
        assert job.run(base / "run", writers, lambda what, place: None) == 0
        return job.final_state(base / "run")


def verdict(base: Path, events: Sequence[tuple[str, int]], code: int) -> str | None:
    """Judge one faulty job in `base`, restart included."""
    end = sound_end if any(what == "failed" for what, _ in events) else same_end
    return judged(base / "run", events, code) or end(base / "run")


def events_in(text: str) -> list[tuple[str, int]]:
    return [(line.split()[0], int(line.split()[1])) for line in text.splitlines() if len(line.split()) == 2]


def why_not_traced() -> str | None:
    """Return why strace cannot be used here; None if it can."""
    if not shutil.which("strace"):
        return "strace is not installed"
    done = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return f"ptrace is not permitted: {done.stderr.strip()[:100]}" if done.returncode else None


def traced_calls(world_size: int, rank: int) -> list[tuple[str, int]]:
    """Return (call, its number among calls of that name) for each that changes the disk."""
    with scratch.directory() as base:
        trace = base / "trace"
        code = _run_ranks(base, world_size, rank, ["-o", str(trace), "-y", "-s0", "-e", f"trace={_CALLS}"])
        assert code == 0, f"a job without faults ended with {code}"
        counts: dict[str, int] = {}
        found = []
        for line in trace.read_text().splitlines():
            if matched := re.match(r"\d+ +(\w+)\(", line):
                call = matched[1]
                counts[call] = counts.get(call, 0) + 1
                # -s0 hides what is written: a path sent to the other rank is not a call on the disk.
                on_disk = f"{base}/run" in line or f"<{base}>" in line
                if on_disk and (call != "openat" or "O_CREAT" in line):
                    found.append((call, counts[call]))
        return found


def traced(point: Point) -> str | None:
    """Run a job whose rank meets `point` in the kernel, and judge it."""
    effect = {"KILL": "signal=KILL", "lie": "retval=1"}.get(point.fault, f"error={point.fault}")
    inject = f"inject={point.call}:{effect}:when={point.number}{'+' if point.lasting else ''}"
    with scratch.directory() as base:
        # Not with --seccomp-bpf, which would be faster: strace 6.1 then injects no signal.
        options = ["-o", os.devnull, "-e", f"trace={point.call}", "-e", inject]
        code = _run_ranks(base, point.world_size, point.rank, options)
        if point.fault == "KILL" and point.rank == 0 and code not in _KILLED:
            return f"was not killed but ended with {code}"
        # 120: a disk that takes no bytes at all did not take the last report either, as Python says so.
        if point.fault != "KILL" and code not in (0, 17, 120):
            return f"ended with {code}: {(base / 'errors').read_text()[-300:]}"
        return verdict(base, events_in((base / "events").read_text()), code)


def _run_ranks(base: Path, world_size: int, traced_rank: int, options: Sequence[str]) -> int:
    """Run the job with one rank under strace; return rank 0's exit code."""
    (base / "world_size").write_text(str(world_size))
    tracer = ["strace", "-f", "-qq", *options]
    prefix = {rank: tracer if rank == traced_rank else [] for rank in range(2)}
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    peer, arguments, descriptors = None, [str(base / "run"), "0", str(world_size)], ()
    with (base / "events").open("w") as events, (base / "errors").open("w") as errors:
        if world_size == 2:
            peer = subprocess.Popen([*prefix[1], *_JOB, str(base / "run"), "1", "2"], stderr=errors, **pipe)
            assert peer.stdin
            descriptors = (peer.stdin.fileno(),)
            arguments.append(str(peer.stdin.fileno()))
        first = subprocess.Popen(
            [*prefix[0], *_JOB, *arguments],
            stdin=peer.stdout if peer else subprocess.DEVNULL,
            stdout=events,
            stderr=errors,
            pass_fds=descriptors,
        )
        if peer and peer.stdin and peer.stdout:
            peer.stdin.close()
            peer.stdout.close()
        code = first.wait(60)
        peer_code = peer.wait(60) if peer else 0
        # A rank whose peer died ends by itself; a rank that was to be killed must have been.
        assert peer_code in {0, 1, 120, *_KILLED}, f"rank 1 ended with {peer_code}"
    return code


def points(*, faults: Sequence[str]) -> Iterator[Point]:
    """Yield every fault at every changing call of the kernel, for one rank and for two."""
    for world_size, rank in ((1, 0), (2, 0), (2, 1)):
        for call, number in traced_calls(world_size, rank):
            if "KILL" in faults:
                yield Point(call, number, "KILL", world_size=world_size, rank=rank)
            if call == "write" and "lie" in faults:
                yield Point(call, number, "lie", world_size=world_size, rank=rank)
            if call.startswith(("openat", "write", "fsync", "rename", "mkdir")):
                for fault in ERRORS:
                    if fault in faults:
                        yield Point(call, number, fault, world_size=world_size, rank=rank)
                if "ENOSPC" in faults:  # a full disk stays full
                    yield Point(call, number, "ENOSPC", lasting=True, world_size=world_size, rank=rank)


def swept(chosen: Sequence[Point]) -> list[str]:
    """Return what went wrong, as one line for each point that it went wrong at."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        return [
            f"{point}: {wrong}"
            for point, wrong in zip(chosen, pool.map(traced, chosen), strict=True)
            if wrong
        ]


def main() -> int:
    """Print the table of the strace sweeps; return 1 if anything was violated."""
    if reason := why_not_traced():
        print(f"skipped: {reason}")
        return 0
    bad = 0
    for faults in (["KILL"], ["ENOSPC", "EDQUOT", "EIO"], ["lie"]):
        began, chosen = time.monotonic(), list(points(faults=faults))
        wrong = swept(chosen)
        bad += len(wrong)
        seconds = time.monotonic() - began
        print(
            f"{'/'.join(faults)}: {len(chosen)} points, {len(wrong)} violations, {seconds:.0f} s", flush=True
        )
        print(*wrong[:5], sep="\n", end="\n" if wrong else "")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
