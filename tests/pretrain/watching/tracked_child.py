"""A training loop without training, run as a process of its own: `tracked_child.py JSON`.

Logs `steps` rows and prints, as JSON, how long a typical and the slowest log call took, and finishing.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pretrain.watching.tracking import TrackingConfig, open_tracker


def wandb_core() -> list[int]:
    """Return the process ids of this process's wandb service."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = path.read_text().partition(" (")
        except OSError:
            continue
        if rest.startswith("wandb-core") and int(rest.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(int(number))
    return found


def main(order: dict[str, Any]) -> None:
    """Log the ordered steps, commit the ordered fault on the way, and report."""
    config = TrackingConfig(**order.get("config", {}))
    first, last = order.get("first", 1), order["last"]
    settings = order.get("settings", {})
    tracker = open_tracker(
        config, Path(order["run_dir"]), settings=settings, attempt=order.get("attempt", 0), primary=True
    )
    seconds_of_calls = []
    for step in range(first, last + 1):
        start = time.perf_counter()
        tracker.log(step, step * 1000, {"train/loss": 3 + 1 / step, "optim/lr": 1e-3})
        seconds_of_calls.append(time.perf_counter() - start)
        time.sleep(order.get("pause", 0.002))
        if step == order.get("kill_core_at"):
            while not (cores := wandb_core()):
                time.sleep(0.05)
            os.kill(cores[0], signal.SIGSTOP if order.get("only_stop") else signal.SIGKILL)
        if step == order.get("kill_self_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == order.get("wait_for_file_at"):
            while not Path(order["file"]).exists():
                time.sleep(0.05)
    if "event" in order:
        tracker.event("note", text=order["event"])
    for alert in order.get("alerts", []):
        tracker.alert(*alert)
    if order.get("shows"):
        tracker.saved(last, Path(order["run_dir"]) / "checkpoints" / f"step-{last:08d}")
        tracker.sample(last, "The sea", " answered.")
        tracker.table("eval/scores", last, ["task", "accuracy"], [["lambada", 0.3], ["hellaswag", 0.29]])
    start = time.perf_counter()
    tracker.finish(order.get("exit_code", 0))
    told = {
        "typical_ms": sorted(seconds_of_calls)[len(seconds_of_calls) // 2] * 1e3,
        "slowest_ms": max(seconds_of_calls) * 1e3,
        "finish_seconds": time.perf_counter() - start,
        "ended_at": time.time(),
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
