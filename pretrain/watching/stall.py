"""When a run has stopped moving: told at half the watchdog's patience, while there is time to look."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pretrain.guard.heartbeat import Beat

_LOOK_EVERY_SECONDS = 1.0
_SHARE_OF_PATIENCE = 0.5


@contextmanager
def stalls_told(beat: Callable[[], Beat], alert: Callable[[str, str], None]) -> Iterator[None]:
    """Call `alert(title, text)` once for every stall of this rank, while the block lasts.

    `beat` returns the rank's last sign of life. A run without a watchdog has no limits, so no stalls.
    """
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(beat, alert, over), name="stalls", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(beat: Callable[[], Beat], alert: Callable[[str, str], None], over: threading.Event) -> None:
    told: Beat | None = None
    while not over.wait(_LOOK_EVERY_SECONDS):
        last = beat()
        if last != told and (text := stall(last, time.monotonic())):
            told = last
            alert("stall", text)


def stall(beat: Beat, now: float) -> str:
    """Return what to say if the rank has not moved for half the time it may take; else ""."""
    silent = now - beat.at
    if silent <= _SHARE_OF_PATIENCE * beat.budget:
        return ""
    return (
        f"no sign of progress for {silent:.0f} s in '{beat.phase}' after step {beat.step}; "
        f"the watchdog ends the run after {beat.budget:.0f} s"
    )
