"""What all tests share: one thread for each process, and a small data set made by the real commands."""

import json
import os
import random
from pathlib import Path

import pytest

# Before torch is imported, here and in every child process: tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A W&B client that a test starts must not find the account of the person who runs the tests.
os.environ.setdefault("WANDB_MODE", "offline")

# Sixteen sequences of 64 tokens; small enough that every split has several blocks and short ones.
BLOCK_TOKENS = 1024
SHARD_TOKENS = 8192
_WORDS = "the of and a in to it is was for on you he be with as by at have are this not but from or"


def make_data_set(folder: Path, *, documents: int, seed: int) -> Path:
    """Prepare and finalize a data set of random words in `folder`; return the path of its index."""
    from data_prep import finalize, prepare

    chance = random.Random(seed)
    corpus = folder / "corpus.jsonl"
    with corpus.open("w") as file:
        for number in range(documents):
            words = chance.choices(_WORDS.split(), k=chance.randint(20, 200))
            file.write(json.dumps({"text": f"{number} {' '.join(words)}\n"}) + "\n")
    output = folder / "data"
    sizes = [f"packing.block_tokens={BLOCK_TOKENS}", f"packing.shard_tokens={SHARD_TOKENS}"]
    paths = ["corpus=jsonl", f"corpus.paths=[{corpus}]", f"output={output}"]
    prepare.main([*paths, *sizes, "validation.fraction=0.1"])
    finalize.main([f"output={output}"])
    return output / "index.json"


@pytest.fixture(scope="session")
def tiny_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the index of some 45,000 tokens in blocks of 1024, a tenth of the documents for validation."""
    return make_data_set(tmp_path_factory.mktemp("tiny"), documents=400, seed=0)


@pytest.fixture(scope="session")
def other_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the index of another, smaller data set."""
    return make_data_set(tmp_path_factory.mktemp("other"), documents=60, seed=1)
