"""Measure what logging costs a run: CPU seconds of the training thread, and of the threads beside it.

usage: python benchmarks/logging_cost.py INDEX RUN_DIR [key=value …]      (1,000 steps of experiment=smoke)

The trainer runs as it always does, in this process; only its calls into reports, the tracker and the console
are timed, by the thread's own CPU clock, so that a busy machine does not count. Prints JSON.
"""

import json
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pretrain import attempt, loop
from pretrain.guard.heartbeat import Page
from pretrain.watching.code_commit import code_commit
from pretrain.watching.run_log import read_run
from pretrain.watching.tracker import Tracker

_STEPS = 1000
_seconds: dict[str, float] = {"report": 0.0, "tracker": 0.0, "steps": 0.0}


def _timed(owner: Any, name: str, what: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        began = time.thread_time()
        try:
            return original(*arguments, **named)
        finally:
            _seconds[what] += time.thread_time() - began

    setattr(owner, name, call)


def _threads(beside: set[int]) -> float:
    """Return the CPU seconds of the threads with these native ids."""
    told = psutil.Process().threads()
    return sum(each.user_time + each.system_time for each in told if each.id in beside)


def main(index: str, run_dir: str, more: list[str]) -> None:
    """Train and print the figures."""
    _timed(loop, "_step", "steps")
    _timed(loop, "_report", "report")  # holds the calls of the tracker that a report makes
    _timed(Tracker, "log", "tracker")
    others: dict[str, float] = {}
    finish = Tracker.finish

    def counted(self: Tracker, *arguments: Any, **named: Any) -> None:
        names = {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id}
        others["wandb_thread_cpu_s"] = _threads({n for n, name in names.items() if name == "wandb"})
        others["stall_thread_cpu_s"] = _threads({n for n, name in names.items() if name == "stalls"})
        finish(self, *arguments, **named)

    Tracker.finish = counted  # type: ignore[method-assign]
    order = ["experiment=smoke", f"data.index={index}", f"run_dir={run_dir}", f"steps={_STEPS}"]
    attempt.main([*order, "log_every=10", "validation.every=500", "checkpoint.every=500", *more], Page())
    alerts = Path(run_dir) / "alerts.jsonl"
    told = [json.loads(line) for line in alerts.read_text().splitlines()] if alerts.exists() else []
    steps = read_run(Path(run_dir)).steps[-1]
    figures = {
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, load {psutil.getloadavg()[0]:.0f}",
        "commit": code_commit(),
        "command": " ".join(["python", "benchmarks/logging_cost.py", "INDEX", "RUN_DIR", *more]),
        "steps": steps,
        **{f"{name}_cpu_s": round(value, 4) for name, value in _seconds.items()},
        **{name: round(value, 4) for name, value in others.items()},
        "logging_share_of_steps": round(_seconds["report"] / _seconds["steps"], 5),
        "alerts": [f"{each['alert']}: {each['text']}" for each in told],
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
