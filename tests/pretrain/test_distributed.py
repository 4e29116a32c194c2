import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from conf.exits import DatasetError
from pretrain.distributed import (
    Vote,
    World,
    broadcast_text,
    gather_texts,
    largest,
    launched_rank,
    on_primary,
    summed,
)

UNICODE = "it's naïve: 北京 🙂\n\0 end"


def test_without_a_launcher_a_process_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert launched_rank() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert launched_rank() == (3, 8)


def test_a_world_of_one_agrees_with_itself(world: World):
    assert world.primary
    assert broadcast_text(world, UNICODE) == UNICODE
    assert gather_texts(world, "") == [""]
    assert summed(world, 0.1, 2.0) == [0.1, 2.0]
    assert largest(world, -1.0) == [-1.0]
    assert on_primary(world, lambda: UNICODE) == UNICODE


def test_what_the_primary_raises_is_raised(world: World):
    def refuse() -> str:
        raise DatasetError("no such data")

    def fail() -> str:
        raise OSError(errno.ENOSPC, "no space", "/there")

    with pytest.raises(DatasetError, match="no such data"):
        on_primary(world, refuse)
    with pytest.raises(OSError, match="no space") as raised:
        on_primary(world, fail)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "/there")


def test_the_answer_to_a_vote_is_that_of_the_step_before(world: World):
    vote = Vote(world, questions=2)
    assert vote.cast(0, 1) == (0, 0)
    assert vote.cast(2, 0) == (0, 1)
    assert vote.cast(0, 0) == (2, 0)
    assert vote.settle() == (0, 0)
    assert vote.settle() == (0, 0)


_RANK = """
from conf.exits import DatasetError
from pretrain.distributed import *

def refuse():
    raise DatasetError("no such data")

def say(line):
    print(line + "\\n", end="", flush=True)  # in one write: the ranks share a pipe

def fail():
    raise OSError(28, "no space", "/there")

with joined() as world:
    rank = world.rank
    assert world.size == 3 and world.primary == (rank == 0)
    assert broadcast_text(world, "naïve 北京" * 999 if rank == 0 else None) == "naïve 北京" * 999
    assert broadcast_text(world, "" if rank == 0 else None) == ""
    assert gather_texts(world, "é" * rank) == ["", "é", "éé"]
    assert summed(world, rank, 2.0**-60) == [3.0, 3 * 2.0**-60]
    assert largest(world, -rank, rank) == [0.0, 2.0]
    called = []
    assert on_primary(world, lambda: called.append(1) or "value") == "value"
    assert called == ([1] if rank == 0 else [])
    try:
        on_primary(world, fail)
        raise AssertionError
    except OSError as error:
        assert (error.errno, error.filename) == (28, "/there")
    def twice(ask):
        return "/".join(ask("a") + ask("b"))

    assert with_help(world, twice, lambda text: f"{text}{rank}") == "a0/a1/a2/b0/b1/b2"
    try:
        with_help(world, lambda ask: ask("a") and fail(), str)
        raise AssertionError
    except OSError as error:
        assert error.filename == "/there"
    vote = Vote(world, questions=2)
    assert vote.cast(rank, 0) == (0, 0)
    assert vote.cast(0, 5 * (rank == 1)) == (2, 0)
    assert vote.settle() == (0, 5)
    say(f"agreed {rank}")
    try:
        on_primary(world, refuse)
    except SystemExit as left:
        assert rank > 0 and left.code == 11
        say(f"left {rank}")
    except DatasetError:
        assert rank == 0
        say(f"left {rank}")
"""


_LISTENER = """
import psutil
from pretrain.distributed import *

with joined() as world:
    assert gather_texts(world, str(world.rank)) == ["0", "1"]
    heard = {c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}
    port = int(os.environ["MASTER_PORT"])
    assert {each.ip for each in heard if each.port == port} == ({"127.0.0.1"} if world.primary else set())
    assert not {"0.0.0.0", "::"} & {each.ip for each in heard}, heard
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "told",
    [
        {"MASTER_ADDR": "localhost"},
        {"MASTER_ADDR": "192.0.2.1", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "2"},
    ],
    ids=["localhost", "one node of a cluster"],
)
def test_ranks_on_one_host_are_not_heard_of_outside_it(told: dict[str, str]):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _LISTENER],
            env={**os.environ, **told, "RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": port},
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in ("0", "1")
    ]
    said = [rank.communicate(timeout=250)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)


@pytest.mark.slow
def test_three_ranks_agree_on_words_numbers_votes_and_errors():
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=3", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", "--no-python", sys.executable, "-c", _RANK]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=250, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")[:-1]) == [
        f"{word} {n}" for word in ("agreed", "left") for n in range(3)
    ]
