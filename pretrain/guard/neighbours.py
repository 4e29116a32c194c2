"""Who the other ranks of a node are, and which of them the others wait for."""

import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.guard.heartbeat import Page
from pretrain.guard.processes import started, state


class Neighbour(NamedTuple):
    """Another rank of the same node, as its watchdog shows it."""

    rank: int
    pid: int
    watchdog: int  # process id, too
    started: str  # when that process did, so that a later one with its id is not taken for it
    page: Page

    @property
    def alive(self) -> bool:
        """Say whether the rank or its watchdog is still there to tell."""
        return self.page.status is None and started(self.watchdog) == self.started

    @property
    def silent(self) -> bool:
        """Say whether there is still a word to come of how the rank ended."""
        return not self.page.told and started(self.watchdog) == self.started


def introduction(page: Page) -> dict[str, Any]:
    """Return what the other ranks' watchdogs must know of this one."""
    if sys.platform != "linux":
        return {"node": ""}
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    node = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    watchdog = os.getppid()
    own = {"pid": os.getpid(), "watchdog": watchdog, "started": started(watchdog)}
    return {"node": node, "page": page.descriptor, **own}


def blame(ranks: list[Neighbour]) -> tuple[str, str, int]:
    """Return who makes no progress and where all ranks of the node stand; and its phase and step."""
    now = time.monotonic()
    beats = {each.rank: each.page.beat() for each in ranks}
    behind = min(beat.place for beat in beats.values())
    names = [each.rank for each in ranks if state(each.pid) in "tT"]
    names = names or sorted(rank for rank, beat in beats.items() if beat.place == behind)
    listed = ", ".join(map(str, names))
    who = f"rank {listed} hangs" if len(names) == 1 else f"ranks {listed} wait for each other"
    where = "; ".join(
        f"rank {rank}: {beat.phase} after step {beat.step}, silent for {now - beat.at:.1f} s "
        f"(limit {beat.budget:.1f} s)"
        for rank, beat in sorted(beats.items())
    )
    return f"{who} ({where})", beats[names[0]].phase, beats[names[0]].step
