"""Measure how long the page of many long runs takes: to read the records, to make the page, to open it.

usage: python benchmarks/page_opening.py [RUNS] [ROWS]      (10 runs of 100,000 rows by default)

The runs are made up: 24 metrics a row. Reading is told in seconds and in CPU seconds of all processes that
read, making in CPU seconds; opening is what headless Chromium says of itself: the CPU seconds of its main
thread until the page has run its scripts. Then the dashboard serves the same runs, whose records it has not
read: seconds from its start to its address, to a page, to curves, to curves of all runs (sketches, most of
them), and to all that the records say; and the CPU seconds that it took until then.
"""

import json
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from pretrain.watching.code_commit import code_commit
from pretrain.watching.run_log import RunLog, updated
from pretrain.watching.run_page import page

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "pretrain" / "watching"))
_METRICS = 24


def made(run_dir: Path, rows: int, seed: int) -> None:
    """Write a run of so many rows."""
    chance = random.Random(seed)
    run_dir.mkdir(parents=True)
    noise = [chance.random() for _ in range(1009)]
    with (run_dir / "metrics.jsonl").open("w") as file:
        head = {"attempt": 0, "time": 1.7e9, "event": "started", "settings": {"steps": rows * 10}}
        file.write(json.dumps(head) + "\n")
        for row in range(1, rows + 1):
            metrics = {
                f"group/metric_{number}": number + noise[(row * (number + 1)) % 1009]
                for number in range(_METRICS - 1)
            }
            line = {
                "attempt": 0,
                "time": 1.7e9 + row * 4,
                "step": row * 10,
                "tokens": row * 5_242_880,
                "train/loss": 3 + 8 / (1 + row / 100) + 0.05 * noise[row % 1009],
                **metrics,
            }
            file.write(json.dumps(line) + "\n")


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it has started and that have ended."""
    return sum(os.times()[:4])


def served(folder: Path, runs: int, browser: Any) -> dict[str, float]:
    """Return the seconds that a person waits for who starts the dashboard and opens its page."""
    began, began_cpu = time.monotonic(), _cpu_seconds()
    command = [sys.executable, "-m", "pretrain.dashboard", f"runs={folder}", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        moments = {"served_address_s": time.monotonic()}
        browser.send("Page.navigate", url=address)
        for name, condition in {
            "served_page_s": "(document.getElementById('title')?.textContent ?? '') !== ''",
            "served_curves_s": "document.querySelectorAll('.panel .main-svg').length >= 6",
            "served_all_drawn_s": f"[...cards.values()][0].curves.length === {runs}",
            "served_all_read_s": f"data.runs.length === {runs} && data.reading === 0",
        }.items():
            browser.wait_for(condition, 300)
            moments[name] = time.monotonic()
        server.terminate()
    seconds = {name: round(moment - began, 2) for name, moment in moments.items()}
    return {**seconds, "served_cpu_s": round(_cpu_seconds() - began_cpu, 2)}


def main(runs: int, rows: int) -> None:
    """Print the figures as JSON."""
    from chromium import Browser  # noqa: PLC0415 - found beside the tests

    with tempfile.TemporaryDirectory(prefix="page-opening-") as folder:
        for number in range(runs):
            made(Path(folder) / f"run-{number}", rows, number)
        logs = [RunLog(Path(folder) / f"run-{number}") for number in range(runs)]
        began, began_cpu = time.monotonic(), _cpu_seconds()
        logs = [log for log, _ in updated(logs)]
        while multiprocessing.active_children():  # their CPU seconds count when they have ended
            time.sleep(0.001)
        read, read_cpu = time.monotonic(), _cpu_seconds()
        text = page(logs, live=False)
        written, written_cpu = time.monotonic(), _cpu_seconds()
        target = Path(folder) / "page.html"
        target.write_text(text)
        with Browser() as browser:
            browser.send("Performance.enable")
            browser.send("Page.navigate", url=target.as_uri())
            browser.wait_for("document.readyState === 'complete'", 300)
            browser.wait_for("document.querySelectorAll('.panel .main-svg').length >= 6", 300)
            told = browser.send("Performance.getMetrics")["metrics"]
            waits = served(Path(folder), runs, browser)
            complaints = browser.complaints
    busy = {each["name"]: each["value"] for each in told}
    figures = {
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, load {psutil.getloadavg()[0]:.0f}",
        "commit": code_commit(),
        "command": f"python benchmarks/page_opening.py {runs} {rows}",
        "read_s": round(read - began, 2),
        "read_cpu_s": round(read_cpu - began_cpu, 2),
        "make_page_s": round(written - read, 2),
        "make_page_cpu_s": round(written_cpu - read_cpu, 2),
        "page_megabytes": round(len(text.encode()) / 1e6, 1),
        "browser_main_thread_cpu_s": round(busy["TaskDuration"], 2),
        "of_it_scripts_s": round(busy["ScriptDuration"], 2),
        "of_it_layout_s": round(busy["LayoutDuration"] + busy["RecalcStyleDuration"], 2),
        **waits,
        "console_complaints": len(complaints),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(*(numbers + [10, 100_000][len(numbers) :]))
