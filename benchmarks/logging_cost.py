"""Measure what logging and W&B cost a run: CPU seconds per step of all its processes, with W&B and without.

usage: python benchmarks/logging_cost.py INDEX [ROUNDS] [STEPS] [key=value …]      (5 rounds of 400 steps)

Runs of experiment=smoke with 512 tokens a step and a report every 10 steps take turns: one without W&B, one
with the real client online, against the service of the tests on this machine. Of each the steps after the
first quarter are counted, in which W&B has started: CPU seconds of the process with all its threads, and of
its children, which is W&B's own process. By themselves as well: the training thread, of it the reports; the
thread that talks to W&B; W&B's process. Prints JSON and writes it to results/logging_cost.json.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from pretrain import attempt, loop
from pretrain.guard.heartbeat import Page
from pretrain.watching.code_commit import code_commit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pretrain" / "watching"))
_RESULTS = Path(__file__).parent / "results" / "logging_cost.json"
_STATED = ("batch.tokens=512", "batch.micro_sequences=8", "log_every=10")
_QUIET = ("validation.every=0", "checkpoint.every=0")


class Account:
    """CPU seconds of this process and its children, from a step on."""

    def __init__(self, first_step: int) -> None:
        self._first_step = first_step
        self._steps = 0
        self._before: dict[str, float] = {}
        self.reports = 0.0  # of the training thread
        self._reports_before = 0.0

    def watch(self) -> None:
        """Count the trainer's steps, and what reports cost its thread."""
        step, report = loop._step, loop._report

        def counted(*arguments: Any) -> None:
            if self._steps == self._first_step:
                self._before, self._reports_before = _spent(), self.reports
            self._steps += 1
            step(*arguments)

        loop._step, loop._report = counted, self._timed(report)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> None:
            began = time.thread_time()
            function(*arguments)
            self.reports += time.thread_time() - began

        return call

    def per_step(self) -> dict[str, float]:
        """Return milliseconds of CPU per step since then."""
        now, steps = _spent(), self._steps - self._first_step
        parts = {name: now[name] - self._before.get(name, 0.0) for name in now}
        parts["reports"] = self.reports - self._reports_before
        return {name: 1000 * seconds / steps for name, seconds in parts.items()}


def _spent() -> dict[str, float]:
    """Return the CPU seconds so far of all, of W&B's process, and of the thread that talks to it."""
    here = psutil.Process()
    of_children = sum(sum(each.cpu_times()[:2]) for each in here.children(recursive=True))
    ids = {thread.native_id for thread in threading.enumerate() if thread.name == "wandb"}
    of_thread = sum(each.user_time + each.system_time for each in here.threads() if each.id in ids)
    return {
        "all": time.process_time() + of_children,
        "training_thread": time.thread_time(),
        "wandb_thread": of_thread,
        "wandb_process": of_children,
    }


def one(order: list[str], steps: int) -> None:
    """Train in this process, as always, and print its account as JSON."""
    account, told = Account(steps // 4), {}
    account.watch()
    end = loop._end_saving

    def ended(*arguments: Any) -> None:
        told.update(account.per_step())
        end(*arguments)

    loop._end_saving = ended
    attempt.main(order, Page())
    print(json.dumps(told))


def main(index: str, rounds: int, steps: int, more: list[str]) -> None:
    """Let runs with and without W&B take turns, and tell the figures."""
    service_type: Any = import_module("local_wandb").LocalWandb  # found beside the tests

    found: dict[str, list[dict[str, float]]] = {"disabled": [], "online": []}
    with tempfile.TemporaryDirectory(prefix="logging-cost-") as folder, service_type() as service:
        for number in range(rounds):
            for mode in sorted(found, reverse=number % 2 == 1):
                run_dir = f"run_dir={folder}/{mode}-{number}"
                order = ["experiment=smoke", f"data.index={index}", run_dir, f"steps={steps}"]
                order += [f"tracking={mode}", "tracking.init_timeout_seconds=90", *_STATED, *_QUIET, *more]
                command = [sys.executable, __file__, "one", str(steps), *order]
                environment = {**os.environ, **service.environment, "OMP_NUM_THREADS": "1"}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
                found[mode].append(json.loads(done.stdout.splitlines()[-1]))
        rows = [len(run.history) for run in service.runs.values()]
    figures = {
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, load {psutil.getloadavg()[0]:.0f}",
        "commit": code_commit(),
        "command": " ".join(["python benchmarks/logging_cost.py INDEX", str(rounds), str(steps), *more]),
        "rows_that_arrived": rows,
        **summary(found),
        "cpu_ms_per_step": {
            mode: [{name: round(value, 4) for name, value in run.items()} for run in runs]
            for mode, runs in found.items()
        },
    }
    text = json.dumps(figures, indent=2)
    _RESULTS.write_text(text + "\n")
    print(text)


def summary(found: dict[str, list[dict[str, float]]]) -> dict[str, float | list[float]]:
    """Return what W&B and reports cost, as shares of a step without W&B."""

    def middle(mode: str, *names: str) -> float:
        return statistics.median(sum(run[name] for name in names) for run in found[mode])

    plain = middle("disabled", "all")
    pairs = list(zip(found["online"], found["disabled"], strict=True))

    def ratios(name: str) -> list[float]:
        return sorted(round(on[name] / off[name], 4) for on, off in pairs)

    return {
        "training_thread_with_wandb_over_without": ratios("training_thread"),
        "all_with_wandb_over_without": ratios("all"),
        "reports_share_of_step": round(middle("online", "reports") / plain, 5),
        "wandb_thread_share_of_step": round(middle("online", "wandb_thread") / plain, 5),
        "wandb_process_share_of_step": round(middle("online", "wandb_process") / plain, 5),
    }


if __name__ == "__main__":
    if sys.argv[1] == "one":
        one(sys.argv[3:], int(sys.argv[2]))
    else:
        numbers = [int(each) for each in sys.argv[2:] if each.isdigit()]
        settings = [each for each in sys.argv[2:] if not each.isdigit()]
        rounds, steps = [*numbers, *(5, 400)[len(numbers) :]]
        main(sys.argv[1], rounds, steps, settings)
