"""Every rank reads its share of a checkpoint, and what any of them met is what rank 0 hears of it."""

import errno
import hashlib
import os
from functools import partial
from pathlib import Path

import pytest
import torch

from conf.exits import CorruptError
from pretrain import read_back
from pretrain.distributed import World

RANKS = 3
CONTENTS = {f"state-{number}": os.urandom(1000 + number) for number in range(7)}


@pytest.fixture
def checkpoint(tmp_path: Path, world: World) -> Path:
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


class Ranks:
    """Three ranks, one after another in this process."""

    def __init__(self, world: World) -> None:
        self.worlds = [World(rank, RANKS, torch.device("cpu"), world.control) for rank in range(RANKS)]
        self.beats = [0] * RANKS

    def ask(self, text: str) -> list[str]:
        return [read_back.share(each, text, partial(self._beat, each.rank)) for each in self.worlds]

    def _beat(self, rank: int) -> None:
        self.beats[rank] += 1


def test_each_file_is_read_by_one_rank_which_says_that_it_is_alive(checkpoint: Path, world: World):
    ranks = Ranks(world)
    found = read_back.shared(ranks.ask, checkpoint, list(CONTENTS))
    assert found == {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    assert ranks.beats == [3, 2, 2]


def test_what_any_rank_met_is_raised(checkpoint: Path, world: World, monkeypatch: pytest.MonkeyPatch):
    ranks = Ranks(world)
    (checkpoint / "state-5").unlink()
    with pytest.raises(CorruptError, match="state-5: missing"):
        read_back.shared(ranks.ask, checkpoint, list(CONTENTS))

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(os, "read", fail)
    with pytest.raises(OSError, match=r"rank 0: .* the disk is gone") as raised:
        read_back.shared(ranks.ask, checkpoint, ["state-0"])
    assert raised.value.errno == errno.EIO
