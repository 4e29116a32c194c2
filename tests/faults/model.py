"""Whether the checkpoint protocol keeps its word in every state that a power cut can leave.

cd tests && python -m faults.model        prints the table
"""

import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from conf.exits import CorruptError, NoCheckpointError
from faults import job, powerloss, scratch
from faults.shim import Operation, Recorder
from pretrain.storage import commit


@dataclass
class Verdict:
    """What one exploration saw."""

    states: int = 0
    distinct: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def recorded(world_size: int, base: Path) -> list[Operation]:
    """Return the operations of a whole job of `world_size` ranks, with marks where saves are promised."""
    recorder = Recorder(base)

    def marked(rank: int) -> job.Writer:
        write = job.local_writer(rank)

        def call(directory: Path, save: job.Save) -> list[commit.FileRecord]:
            recorder.mark(f"rank {rank} begins")
            records = list(write(directory, save))
            if rank == world_size - 1:
                recorder.mark("ranks end")
            return records

        return call

    with recorder.recording():
        writers = [marked(rank) for rank in range(world_size)]
        code = job.run(base / "run", writers, lambda what, place: recorder.mark(f"{what} {place}"))
    assert code == 0
    return recorder.log


def explore(
    log: list[Operation],
    where: Path,
    *,
    reordered: bool = False,
    seen: set[bytes] | None = None,
    stop: bool = False,
) -> Verdict:
    """Cut the power after every operation of `log`, and ask the real code what it finds.

    `seen` remembers states judged before; `stop` ends at the first violation.
    """
    verdict, seen, promised = Verdict(), set() if seen is None else seen, -1
    disk = powerloss.Disk()
    for place in range(len(log) + 1):
        for tree in disk.states(reordered=reordered):
            verdict.states += 1
            key = powerloss.fingerprint(tree) + bytes([promised + 1])
            if key in seen:
                continue
            seen.add(key)
            verdict.distinct += 1
            found = _judged(tree, where, promised)
            verdict.outcomes[found] += 1
            if found.startswith("BAD"):
                verdict.violations.append(f"after operation {place} {log[place - 1 : place]}: {found}")
                if stop:
                    return verdict
        if place < len(log) and log[place][0] == "mark":
            what, _, which = log[place][1].partition(" ")
            promised = int(which) if what == "saved" else promised
        elif place < len(log):
            disk.apply(log[place])
    return verdict


def _judged(tree: powerloss.Tree, where: Path, promised: int) -> str:
    """Return what a restart in this state finds: "save 3", "none", or "BAD …"."""
    shutil.rmtree(where, ignore_errors=True)
    powerloss.put(tree, where)
    root = where / "run" / "checkpoints"
    try:
        found = commit.newest_valid(root, **job.RUN)
        place = job.SCHEDULE.index(job.saved_in(found)) if found else -1
    except (NoCheckpointError, AssertionError, OSError, KeyError) as error:
        return f"BAD {type(error).__name__}: {error}"
    if place < promised:
        return f"BAD save {promised} was promised, {place} is found"
    whole = sum(_is_whole(path) for path in commit.checkpoints(root)) if found else 0
    if whole < min(2, len({save.step for save in job.SCHEDULE[: promised + 1]})):
        return f"BAD only {whole} whole checkpoints are left after save {promised}"
    return f"save {place}" if found else "none"


def _is_whole(path: Path) -> bool:
    try:
        commit.verify(path)
    except CorruptError:
        return False
    return True


def runs(world_sizes: tuple[int, ...], seeds: range) -> Iterator[tuple[str, list[Operation]]]:
    """Yield named operation logs: every world size, one after the other and interleaved."""
    for world_size in world_sizes:
        with scratch.directory() as base:
            log = recorded(world_size, base)
        for seed in seeds:
            yield f"{world_size} ranks, order {seed}", powerloss.interleaved(log, seed)


def main() -> int:
    """Print states and violations of each run; return 1 if there are any violations."""
    total, bad, began = 0, 0, time.monotonic()
    # Any subset for four ranks is millions of states, and half an hour.
    for reordered, world_sizes in ((False, (1, 2, 4)), (True, (1, 2))):
        seen: set[bytes] = set()
        for name, log in runs(world_sizes, range(2)):
            with scratch.directory() as base:
                verdict = explore(log, base / "disk", reordered=reordered, seen=seen)
            total, bad = total + verdict.states, bad + len(verdict.violations)
            kind = "any subset" if reordered else "in order"
            print(
                f"{name}, {kind}: {len(log)} operations, {verdict.states} states, "
                f"{verdict.distinct} new, {len(verdict.violations)} bad",
                *verdict.violations[:3],
                sep="\n  ",
                flush=True,
            )
    print(f"{total} crash states, {bad} bad, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
