"""Who does the units: worker processes, each with one unit at a time and nothing shared but the disk."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from conf.exits import ConfigError, Exit, UserError

Work = TypeVar("Work")
Result = TypeVar("Result")

AUTO = "auto"
# Units handed out ahead of time, for each worker: it never waits for the next one.
_AHEAD = 2
# Starting a worker takes 0.5 CPU seconds, as does tokenizing this many of the smallest units (1 MiB).
_UNITS_PER_WORKER = 4


class WorkerDiedError(UserError):
    """A worker process was killed: the work goes on when the command is run again."""

    code = Exit.REQUEUE


def worker_count(asked: int | str, units: int) -> int:
    """Return how many workers to start; "auto" means one for each usable CPU, and no more than pay.

    Raises ConfigError for a number that is not at least 1.
    """
    if asked == AUTO:
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(usable, units // _UNITS_PER_WORKER))
    if not isinstance(asked, int) or asked < 1:
        raise ConfigError(f"workers={asked} is not 'auto' or a number from 1 on")
    return max(1, min(asked, units))


def each(
    work: Callable[[Work], Result], items: Iterable[Work], workers: int
) -> Iterator[tuple[Work, Result]]:
    """Yield (item, work(item)) as the items are done, in any order; one worker means this process.

    The first error ends it: what other workers have begun is finished, what nobody has begun is not. Raises
    WorkerDiedError if a worker is killed, for example for its memory.
    """
    if workers == 1:
        for item in items:
            yield item, work(item)
        return
    context = multiprocessing.get_context("spawn")  # a forked process may inherit a locked lock
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent) as pool:
        try:
            yield from _done(pool, work, iter(items), workers * _AHEAD)
        except BrokenProcessPool:
            raise WorkerDiedError(
                "a worker process was killed, perhaps for its memory; run the same command again: finished "
                "units are kept (workers=1 needs least memory)"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _done(
    pool: ProcessPoolExecutor, work: Callable[[Work], Result], items: Iterator[Work], ahead: int
) -> Iterator[tuple[Work, Result]]:
    """Keep `ahead` items with the pool; yield each as it is done."""
    pending: dict[Future[Result], Work] = {}
    exhausted = False
    while pending or not exhausted:
        while not exhausted and len(pending) < ahead:
            try:
                item = next(items)
            except StopIteration:
                exhausted = True
            else:
                pending[pool.submit(work, item)] = item
        finished, _ = wait(pending, return_when=FIRST_COMPLETED) if pending else (set(), set())
        for future in finished:
            yield pending.pop(future), future.result()


def _die_with_parent() -> None:
    """End this worker when the process that started it is gone, even if that was killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
