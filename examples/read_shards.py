"""Read a data set with NumPy alone: no tar parser, no tokenizer, none of this project's code.

usage: python examples/read_shards.py DIR      (needs only numpy)
"""

import json
import sys
from pathlib import Path

import numpy as np


def blocks(directory: Path, split: str):
    """Yield every block of a split as it lies on disk: uint16, (payload + 1 overlap token,)."""
    index = json.loads((directory / "index.json").read_text())
    assert (index["format"], index["dtype"]) == (2, "uint16")
    full = index["block_tokens"]
    stride = 512 + -(-(128 + 2 * (full + 1)) // 512) * 512  # tar header, NumPy header, array, zeros
    for shard in index["splits"][split]["shards"]:
        for number, first in enumerate(range(0, shard["tokens"], full)):
            offset, tokens = number * stride + 640, min(full, shard["tokens"] - first)
            yield np.memmap(directory / shard["name"], "<u2", mode="r", offset=offset, shape=(tokens + 1,))


def sequences(directory: Path, split: str, length: int):
    """Yield (inputs, targets) of `length` tokens: the target of a token is the one that follows it."""
    for block in blocks(directory, split):
        for start in range(0, len(block) - length, length):
            yield block[start : start + length], block[start + 1 : start + length + 1]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in ("train", "validation"):
        print(name, sum(len(block) - 1 for block in blocks(folder, name)), "tokens")
    inputs, targets = next(sequences(folder, "train", 16))
    print("first inputs ", inputs)
    print("first targets", targets)
