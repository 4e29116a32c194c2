"""A large index is opened from a table that says what index.json says, or not from a table at all."""

import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_data import T, made

from conf.exits import CorruptError, DatasetError
from data_prep.shards import Index, Shard, Split, read_index
from pretrain.stream import table
from pretrain.stream.sequences import Sequences
from pretrain.stream.sources import index_at

SHARDS = [[64] * 20, [64] * 3 + [33], [17], [64] * 7]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an index that counts as large, and has its table."""
    monkeypatch.setattr(table, "_LEAST_BYTES", 0)
    path = made(tmp_path / "data", SHARDS)
    assert same(index_at(str(path)), read_index(path))
    assert path.with_name(table.NAME).exists()
    return path


def same(one: Index, other: Index) -> bool:
    return whole(one) == whole(other)


def whole(index: Index) -> Index:
    """Return an index with all that a table reads only when it is asked for."""
    splits = {
        name: Split(split.tokens, split.documents, tuple(map(as_parsed, split.shards)))
        for name, split in index.splits.items()
    }
    return replace(index, splits=splits)


def as_parsed(shard: Shard) -> Shard:
    facts = (shard.name, shard.bytes, shard.sha256, shard.tokens, shard.documents)
    return Shard(*facts, tuple(shard.blocks))


def is_from_table(index: Index) -> bool:
    return isinstance(index.splits["train"].shards, table.ShardTable)


def test_an_index_is_the_same_from_its_table(place: Path):
    for name in (place, place.parent):
        found = index_at(str(name))
        assert is_from_table(found)
        assert same(found, read_index(place))


def test_sequences_are_the_same_from_a_table(place: Path):
    read, expected = (
        Sequences(i, "train", T, cached_blocks=3) for i in (index_at(str(place)), read_index(place))
    )
    assert np.array_equal(read.rows_per_block, expected.rows_per_block)
    assert read.rows_per_block.tolist() == [4] * 20 + [4] * 3 + [2] + [1] + [4] * 7
    for block, rows in enumerate(expected.rows_per_block.tolist()):
        for row in range(rows):
            assert np.array_equal(read.row(block, row), expected.row(block, row))


def test_a_small_index_is_left_alone(tmp_path: Path):
    path = made(tmp_path / "data", SHARDS)
    assert not is_from_table(index_at(str(path)))
    assert not path.with_name(table.NAME).exists()


def test_a_copied_table_is_believed_and_one_of_another_index_is_made_again(place: Path, tmp_path: Path):
    os.utime(place, (1, 1))
    assert is_from_table(index_at(str(place))), "the time is another, the hash is not"
    other = made(tmp_path / "other", [[64] * 9], seed=5)
    place.write_bytes(other.read_bytes())
    found = index_at(str(place))
    assert not is_from_table(found)
    assert found.fingerprint == read_index(other).fingerprint
    assert is_from_table(again := index_at(str(place)))
    assert again.fingerprint == found.fingerprint


def test_no_damage_to_a_table_changes_what_is_read(place: Path):
    """Of what it says of shards every bit is checked; a block's record is held against the block."""
    path, expected = place.with_name(table.NAME), read_index(place)
    sound, chance = path.read_bytes(), random.Random(0)
    first_record = len(sound) - 32 * 16
    for _ in range(300):
        damaged = bytearray(sound)
        at = chance.randrange(len(sound))
        damaged[at] ^= 1 << chance.randrange(8)
        cut = chance.random() < 0.2
        path.write_bytes(damaged[:at] if cut else damaged)
        if cut or at < first_record:
            assert same(index_at(str(place)), expected)
            continue
        index, number = index_at(str(place)), (at - first_record) // 16
        sequences = Sequences(index, "train", T, cached_blocks=2)
        with pytest.raises(CorruptError, match=r"differs from the index"):
            sequences.row(number, 0)


def test_a_table_that_shrinks_while_it_is_read_is_an_error_that_names_it(place: Path):
    index = index_at(str(place))
    os.truncate(place.with_name(table.NAME), 100)
    with pytest.raises(DatasetError, match=r"index\.blocks cannot be read .*; remove it"):
        Sequences(index, "train", T, cached_blocks=2).row(0, 0)


def test_a_folder_that_takes_no_table_is_read_without(place: Path):
    path = place.with_name(table.NAME)
    path.unlink()
    path.mkdir()
    assert same(index_at(str(place)), read_index(place))
    assert [each.name for each in path.parent.iterdir() if "tmp" in each.name] == []


def test_a_table_that_somebody_else_wrote_is_not_believed(place: Path, monkeypatch: pytest.MonkeyPatch):
    real = os.fstat

    def of_another(descriptor: int) -> os.stat_result:
        found = list(real(descriptor))
        found[4] += 1  # st_uid
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", of_another)
    assert table.opened(place) is None
