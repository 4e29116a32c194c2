"""What a resume costs where an epoch is a trillion tokens: the order of an epoch, then the first batch.

usage: python benchmarks/resume.py [ROUNDS] [RESULT.json]

The index is simulated: 15,258,790 blocks of 64 sequences of 1,024 tokens, one in a hundred shorter, dealt to
512 lanes. Each round is a process of its own that goes to a random sequence of one of the first three epochs
and says where the 512 sequences of that batch lie. Seconds are CPU seconds of the process, memory is what it
takes beyond the imports, at its highest.
"""

import json
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

BLOCKS, ROWS, LANES, BATCH = 15_258_790, 64, 512, 512


def measure(seed: int) -> dict[str, float]:
    """Return the figures of one resume."""
    import numpy as np  # noqa: PLC0415 - what comes before is no part of the figure

    from pretrain.stream.order import Order  # noqa: PLC0415

    rows = np.full(BLOCKS, ROWS, np.uint8)
    rows[::100] = ROWS - 1
    chance = random.Random(seed)
    epoch, before = chance.randrange(3), _peak_mebibytes()
    began = time.process_time()
    order = Order(rows, lanes=LANES, seed=1337)
    made = time.process_time()
    target = epoch * order.sequences_per_epoch + chance.randrange(order.sequences_per_epoch // 2)
    order.epochs_of(np.arange(LANES), target // LANES)  # deals every epoch up to that one
    dealt = time.process_time()
    started = time.perf_counter()
    first = order.places(target, BATCH)
    answered = time.perf_counter()
    order.places(target + BATCH, BATCH)
    assert len({tuple(place) for place in first.tolist()}) == BATCH
    return {
        "epoch_order_cpu_s": (dealt - made) / (epoch + 1),
        "first_batch_ms": 1000 * (answered - started),
        "next_batch_ms": 1000 * (time.perf_counter() - answered),
        "prepare_cpu_s": made - began,
        "epochs_dealt": epoch + 1,
        "peak_mib": _peak_mebibytes() - before,
    }


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(rounds: int, result: Path | None) -> None:
    """Print the median, the lowest and the highest of each figure."""
    found = []
    for seed in range(rounds):
        told = subprocess.run(
            [sys.executable, __file__, "--one", str(seed)], capture_output=True, text=True, check=True
        )
        found.append(json.loads(told.stdout))
    figures = {
        name: [statistics.median(values), min(values), max(values)]
        for name in found[0]
        for values in [[each[name] for each in found]]
    }
    for name, (middle, low, high) in figures.items():
        print(f"{name:18s} {middle:9.3f}  ({low:.3f} to {high:.3f})")
    if result is not None:
        import record  # noqa: PLC0415 - brings torch, which is no part of the figure

        content = {"rounds": rounds, "median_low_high": figures}
        print(record.write(result.stem, content, result.parent))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 12, Path(sys.argv[2]) if sys.argv[2:] else None)
