"""Let webdataset's own reader meet the accidents that ours is tested with, and count what it notices.

usage: python benchmarks/damaged_shards.py [MUTATIONS]      (1,000 by default)

Silent is a reading that ends without an error and with other tokens, or fewer.
"""

import collections
import random
import sys
import tempfile
from pathlib import Path

import webdataset

sys.path += [str(Path(__file__).parents[1] / "tests/pretrain/stream")]
from made_data import made
from test_mutations import mutated, outcomes

SHARDS = [[64] * 12 + [40], [64] * 7 + [20]]


def main(mutations: int) -> None:
    """Print the counts of both readers on the same accidents."""
    with tempfile.TemporaryDirectory() as folder:
        index = made(Path(folder, "data"), SHARDS)
        print("ours      ", outcomes(index, mutations, seed=1))
        print("webdataset", dict(theirs(index.parent, mutations, seed=1)))


def theirs(folder: Path, mutations: int, seed: int) -> collections.Counter[str]:
    """Return how often webdataset raised, was right, or was wrong without a word."""
    chance, counted = random.Random(seed), collections.Counter[str]()
    shards = sorted(folder.glob("*.tar"))
    whole = read(shards)
    for _ in range(mutations):
        path = chance.choice(shards)
        content = path.read_bytes()
        path.write_bytes(mutated(content, chance))
        try:
            counted["harmless" if read(shards) == whole else "silent"] += 1
        except Exception:
            counted["error"] += 1
        path.write_bytes(content)
    return counted


def read(shards: list[Path]) -> list[list[int]]:
    """Return all tokens that webdataset finds."""
    data = webdataset.WebDataset([str(path) for path in shards], shardshuffle=False).decode()
    return [sample["npy"].tolist() for sample in data]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
