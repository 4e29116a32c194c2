"""One attempt of a run: the directory is opened, everything is built, trained, and closed again.

All ranks do the same; what only one may do is done by rank 0 and told to the others.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from conf.exits import Exit, UserError
from pretrain import opening
from pretrain.building import built
from pretrain.distributed import World, gather_texts, joined
from pretrain.guard import attempts
from pretrain.guard.heartbeat import Heart, Page
from pretrain.guard.neighbours import introduction
from pretrain.loop import train
from pretrain.opening import Opened
from pretrain.step.heap import keep_freed_memory
from pretrain.watching.code_commit import code_commit
from pretrain.watching.console import Console
from pretrain.watching.redaction import print_exception, redacted
from pretrain.watching.stall import stalls_told
from pretrain.watching.tracking import Tracker, open_tracker


def main(overrides: list[str], page: Page) -> int:
    """Train as the overrides say; return Exit.OK when the last step is done.

    What this rank does, and why it ends, is told on `page`, for its watchdog.
    """
    try:
        code = _attempt(overrides, page)
    except BaseException as error:
        if "end" not in page.notes():
            page.note(end=redacted(attempts.raised(error)))
        if not isinstance(error, Exception) or isinstance(error, UserError):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the command knows what a disk says
        # Libraries put addresses and headers into what they raise, and W&B's own hook prints all of it.
        print_exception(error)
        raise SystemExit(1) from None
    return code


def _attempt(overrides: list[str], page: Page) -> int:
    with joined() as world, opening.opened(world, overrides) as opened:
        if world.device.type == "cpu":
            keep_freed_memory()
        heart = Heart(page, opened.config.watchdog)
        _introduce(opened, world, page)
        console = Console(opened.config.steps, world.primary)
        tracker = _tracker(opened, world, console)
        end = _End()
        try:
            with (
                stalls_told(page.beat, tracker.alert),
                built(opened, world, console, tracker, heart=heart, page=page) as run,
            ):
                code = train(run, opened.config.loop)
                end = _End(code, f"stopped by {run.stop.reason}" if code else "done")
                page.note(end={"reason": end.reason})
        except UserError as error:
            end = _End(error.code, str(error))
            raise
        finally:
            heart.enter("leave", page.beat().step)
            console.close()
            tracker.finish(end.code, end.reason and f"{end.reason}, after step {page.beat().step}")
            page.note(told=end.code if end.reason else None)
        return end.code


class _End(NamedTuple):
    """How an attempt ended. A crash has no reason yet: the watchdog knows which rank's came first."""

    code: Exit | int = 1
    reason: str | None = None


def _introduce(opened: Opened, world: World, page: Page) -> None:
    """Tell this rank's watchdog what the run is, and who its neighbours on this node are. Collective."""
    told = [json.loads(text) for text in gather_texts(world, json.dumps(introduction(page)))]
    here = told[world.rank]["node"]
    page.note(
        rank=world.rank,
        run_dir=str(Path(opened.config.run_dir).resolve()),
        attempt=opened.attempt,
        neighbours=[
            {"rank": rank, **each}
            for rank, each in enumerate(told)
            if each.pop("node") == here and rank != world.rank
        ],
    )


def _tracker(opened: Opened, world: World, console: Console) -> Tracker:
    facts: dict[str, Any] = {
        **asdict(opened.config),
        "ranks": world.size,
        "run_id": opened.identity.run_id,
        "dataset_fingerprint": opened.identity.dataset_fingerprint,
        "corpora": opened.corpora,
        "code_commit": code_commit() if world.primary else "",
        "slurm_job_id": os.environ.get("SLURM_JOB_ID", ""),
    }
    return open_tracker(
        opened.config.tracking,
        Path(opened.config.run_dir),
        settings=facts,
        attempt=opened.attempt,
        alike=attempts.alike(Path(opened.config.run_dir), opened.attempt) if world.primary else (),
        primary=world.primary,
        say=console.say,
    )
