"""Damage to shards: found, named, and never trained on."""

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
from made_data import T, made

from conf.exits import CorruptError, DatasetError
from data_prep.index import read_index
from data_prep.shards import Shard
from pretrain.stream.sequences import Sequences

_MOST_SECONDS = 2.0


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return a shard's bytes after one accident: of a bit, a byte, a sector, a copy, or an end."""
    damaged, place = bytearray(content), chance.randrange(len(content))
    kind = chance.randrange(9)
    if kind == 0:
        damaged[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        damaged[place] = chance.randrange(256)
    elif kind == 2:  # a sector of zeros, as a power cut leaves it
        place = place // 512 * 512
        damaged[place : place + 512] = bytes(len(damaged[place : place + 512]))
    elif kind == 3:  # two sectors exchanged
        one, other = (chance.randrange(len(content) // 512) * 512 for _ in range(2))
        damaged[one : one + 512], damaged[other : other + 512] = (
            content[other : other + 512],
            content[one : one + 512],
        )
    elif kind == 4:
        del damaged[place:]
    elif kind == 5:
        del damaged[place // 512 * 512 :]
    elif kind == 6:
        damaged[place:place] = chance.randbytes(chance.randint(1, 600))
    elif kind == 7:
        damaged = bytearray(chance.randbytes(len(content)))
    else:  # it has grown
        damaged += chance.randbytes(chance.randint(1, 2000))
    return bytes(damaged)


def outcomes(index: Path, mutations: int, seed: int) -> dict[str, int]:
    """Read every sequence of a data set after each accident; return how often what happened."""
    data, chance = read_index(index), random.Random(seed)
    places = [
        (b, r)
        for b, n in enumerate(Sequences(data, "train", T, cached_blocks=1).rows_per_block)
        for r in range(n)
    ]
    blocks, rows = np.array(places).T
    whole = np.empty((len(places), T + 1), np.uint16)
    Sequences(data, "train", T, cached_blocks=1000).fill(whole, blocks, rows)
    counted = {"error": 0, "harmless": 0, "silent": 0, "untyped": 0, "slow": 0}
    for _ in range(mutations):
        shard: Shard = chance.choice(data.splits["train"].shards)
        path = index.parent / shard.name
        content = path.read_bytes()
        path.write_bytes(mutated(content, chance))
        found, began = np.zeros_like(whole), time.thread_time()
        try:
            Sequences(data, "train", T, cached_blocks=1000).fill(found, blocks, rows)
            # The payloads alone are read: what lies between them may be anything.
            counted["harmless" if np.array_equal(found, whole) else "silent"] += 1
        except (CorruptError, DatasetError) as error:
            counted["error"] += shard.name in str(error)
            counted["untyped"] += shard.name not in str(error)
        except Exception:
            counted["untyped"] += 1
        counted["slow"] += time.thread_time() - began > _MOST_SECONDS
        path.write_bytes(content)
    return counted


def check(tmp_path: Path, mutations: int, seed: int) -> dict[str, int]:
    counted = outcomes(made(tmp_path / "data", [[64] * 12 + [40], [64] * 7 + [20]]), mutations, seed)
    assert counted["silent"] == counted["untyped"] == counted["slow"] == 0, counted
    assert counted["error"] > mutations // 4
    return counted


def test_a_thousand_mutations_of_shards_are_found_or_harmless(tmp_path: Path):
    check(tmp_path, 1000, seed=0)


@pytest.mark.soak
def test_ten_thousand_mutations_of_shards_are_found_or_harmless(tmp_path: Path):
    print(f"10,000 shard mutations: {check(tmp_path, 10_000, seed=1)}")


@pytest.mark.parametrize("what", ["a folder", "a named pipe", "a loop"])
def test_what_is_no_shard_is_refused_at_once(what: str, tmp_path: Path):
    index = made(tmp_path / "data", [[64] * 3])
    shard = index.parent / "train-00000.tar"
    shard.unlink()
    if what == "a folder":
        shard.mkdir()
    elif what == "a named pipe":
        os.mkfifo(shard)
    else:
        shard.symlink_to(shard)
    with pytest.raises((CorruptError, DatasetError), match=r"train-00000\.tar"):
        Sequences(read_index(index), "train", T, cached_blocks=1).row(0, 0)
