import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpora import as_jsonl, documents

from conf.exits import CorruptError, DatasetError
from data_prep.index import read_index
from data_prep.shards import Shard, read_block


@pytest.fixture
def data(make: Callable[..., Path], tmp_path: Path) -> Path:
    return make([as_jsonl(tmp_path / "a.jsonl", documents(120))])


def test_a_block_is_its_payload_and_one_overlap_token(data: Path):
    index = read_index(data)
    for split in index.splits.values():
        for shard in split.shards:
            read = [read_block(data, shard, number) for number in range(shard.block_count)]
            assert all(block.dtype == np.uint16 for block in read)
            assert all(len(array) == shard.block(number).tokens + 1 for number, array in enumerate(read))
            assert [block[-1] for block in read] == [block[0] for block in read[1:]] + [50256]
            read[0][0] = 1  # a caller may write into what it was given


def test_a_flipped_bit_names_shard_member_and_offset(data: Path):
    shard = read_index(data).splits["train"].shards[0]
    content = bytearray((data / shard.name).read_bytes())
    content[shard.block(2).offset + 7] ^= 1
    (data / shard.name).write_bytes(content)
    read_block(data, shard, 1)
    with pytest.raises(CorruptError, match=rf"{shard.name}.*000000002\.npy.*{shard.block(2).offset}"):
        read_block(data, shard, 2)


def test_a_truncated_shard_is_named_with_its_size(data: Path):
    shard = read_index(data).splits["train"].shards[0]
    (data / shard.name).write_bytes((data / shard.name).read_bytes()[:1000])
    with pytest.raises(CorruptError, match=f"1000 of {shard.bytes} bytes"):
        read_block(data, shard, 0)


def test_a_missing_shard_is_named(data: Path):
    shard = read_index(data).splits["train"].shards[0]
    (data / shard.name).unlink()
    with pytest.raises(DatasetError, match=shard.name):
        read_block(data, shard, 0)


def test_where_blocks_lie_follows_from_their_number():
    shard = Shard("train-00000.tar", 20_480, "ab", 2054, 2, "cd", 1024)
    assert [shard.block(number) for number in range(shard.block_count)] == [
        (640, 1024),
        (3712, 1024),
        (6784, 6),
    ]
    assert shard.table == 6784 - 640 + 1024 + 512
    for number in (-1, 3):
        with pytest.raises(IndexError):
            shard.block(number)
    empty = Shard("train-00000.tar", 10_240, "ab", 0, 0, "cd", 1024)
    assert (empty.block_count, empty.table) == (0, 512)


def test_a_damaged_table_of_digests_is_named_with_its_offset(data: Path):
    shard = read_index(data).splits["train"].shards[0]
    content = bytearray((data / shard.name).read_bytes())
    content[shard.table + 9] ^= 1
    (data / shard.name).write_bytes(content)
    with pytest.raises(CorruptError, match=rf"{shard.name}: its table of digests at offset {shard.table} "):
        read_block(data, shard, 0)


def test_an_index_that_cuts_a_shard_otherwise_than_it_was_reads_nothing(data: Path):
    raw = json.loads((data / "index.json").read_text())
    raw["block_tokens"] *= 2
    (data / "index.json").write_text(json.dumps(raw))
    index = read_index(data)
    with pytest.raises(CorruptError, match="table of digests"):
        read_block(data, index.splits["train"].shards[0], 0)
