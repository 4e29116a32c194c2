"""What all tests share: one thread for each process, and a small data set made by the real commands."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the tests of data preparation need no torch
    from pretrain.distributed import World

# Before torch is imported, here and in every child process: tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A W&B client that a test starts must not find the account of the person who runs the tests.
os.environ.setdefault("WANDB_MODE", "offline")

# Sixteen sequences of 64 tokens; small enough that every split has several blocks and short ones.
BLOCK_TOKENS = 1024
SHARD_TOKENS = 8192
_WORDS = "the of and a in to it is was for on you he be with as by at have are this not but from or"
_LAUNCHER = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the count of skipped tests, also when it is none: what was not tried must not look tried."""
    terminalreporter.write_line(f"skipped: {len(terminalreporter.stats.get('skipped', []))} tests")


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


@pytest.fixture(scope="session")
def joined_world() -> Iterator["World"]:
    """Join a process group of one: a process can do so once, so all tests of a session share it."""
    from pretrain.distributed import joined

    before = {name: os.environ.get(name) for name in _LAUNCHER}
    with joined() as world:
        _restore(before)
        yield world


@pytest.fixture
def world(joined_world: "World", monkeypatch: pytest.MonkeyPatch) -> "World":
    """Return the only rank of a world of one, with what a launcher tells DeepSpeed."""
    for name, value in _LAUNCHER.items():
        monkeypatch.setenv(name, value)
    return joined_world


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="session")
def tiny_run(tiny_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that `pretrain.train experiment=smoke` has made, all 20 steps."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    command = [sys.executable, "-m", "pretrain.train", "experiment=smoke", f"data.index={tiny_index}"]
    environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHER}
    done = subprocess.run(
        [*command, f"run_dir={run_dir}"],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return run_dir
