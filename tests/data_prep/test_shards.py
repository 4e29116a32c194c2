import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpora import as_jsonl, documents

from conf.exits import CorruptError, DatasetError
from data_prep.shards import Block, Shard, read_block, read_index, shard_of, shard_record


@pytest.fixture
def data(make: Callable[..., Path], tmp_path: Path) -> Path:
    return make([as_jsonl(tmp_path / "a.jsonl", documents(120))])


def test_the_index_is_read_from_its_file_or_its_folder(data: Path):
    index = read_index(data / "index.json")
    assert index == read_index(str(data))
    assert index.fingerprint == hashlib.sha256((data / "index.json").read_bytes()).hexdigest()
    assert (index.tokenizer, index.end_of_text, index.block_tokens) == ("gpt2", 50256, 1024)
    assert set(index.splits) == {"train", "validation"}
    assert index.directory == data


def test_the_index_says_which_corpus_it_is_if_it_was_named(make: Callable[..., Path], tmp_path: Path):
    corpus = [as_jsonl(tmp_path / "a.jsonl", documents(20))]
    unnamed, named = read_index(make(corpus)), read_index(make(corpus, "corpus.name=web", name="named"))
    assert (unnamed.corpus, named.corpus) == (None, "web")
    assert "name" not in unnamed.config["corpus"], "it would have another fingerprint than before"
    assert named.splits == unnamed.splits
    for odd in ([], {"corpus": []}, {"corpus": {"name": ["web"]}}):
        assert replace(named, config=odd).corpus is None


def test_a_block_is_its_payload_and_one_overlap_token(data: Path):
    index = read_index(data)
    for split in index.splits.values():
        for shard in split.shards:
            read = [read_block(data, shard, number) for number in range(len(shard.blocks))]
            assert all(block.dtype == np.uint16 for block in read)
            assert all(
                len(array) == block.tokens + 1 for array, block in zip(read, shard.blocks, strict=True)
            )
            assert [block[-1] for block in read] == [block[0] for block in read[1:]] + [50256]
            read[0][0] = 1  # a caller may write into what it was given


def test_a_flipped_bit_names_shard_member_and_offset(data: Path):
    shard = read_index(data).splits["train"].shards[0]
    content = bytearray((data / shard.name).read_bytes())
    content[shard.blocks[2].offset + 7] ^= 1
    (data / shard.name).write_bytes(content)
    read_block(data, shard, 1)
    with pytest.raises(CorruptError, match=rf"{shard.name}.*000000002\.npy.*{shard.blocks[2].offset}"):
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


def test_a_missing_index_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"data_prep\.finalize"):
        read_index(tmp_path)


def _first(raw: dict[str, Any]) -> dict[str, Any]:
    return raw["splits"]["train"]["shards"][0]


DAMAGES: list[Callable[[dict[str, Any]], Any]] = [
    lambda raw: raw.update(format=1),
    lambda raw: raw.update(dtype="int32"),
    lambda raw: raw.pop("splits"),
    lambda raw: raw.pop("end_of_text"),
    lambda raw: raw["splits"].pop("validation"),
    lambda raw: raw["splits"]["train"].update(tokens=1),
    lambda raw: raw["splits"]["train"].update(documents=10**6),
    lambda raw: _first(raw).update(name="../../etc/passwd"),
    lambda raw: _first(raw).update(name="/train-00000.tar"),
    lambda raw: _first(raw).update(name="train-00000.tar\n"),
    lambda raw: _first(raw).update(bytes=2000),
    lambda raw: _first(raw).update(tokens=5),
    lambda raw: _first(raw).update(blocks="none"),
    lambda raw: _first(raw)["blocks"].reverse(),
    lambda raw: _first(raw)["blocks"][0].pop(),
    lambda raw: _first(raw)["blocks"][0].__setitem__(0, -640),
    lambda raw: raw.update(block_tokens=512),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=range(len(DAMAGES)))
def test_an_index_that_contradicts_itself_is_refused_in_one_line(damage: Callable, data: Path):
    raw = json.loads((data / "index.json").read_text())
    damage(raw)
    (data / "index.json").write_text(json.dumps(raw))
    with pytest.raises(DatasetError, match=r"index\.json") as caught:
        read_index(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"index"', b"\xff\xfe", b"{}"])
def test_a_file_that_is_no_index_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(DatasetError, match="not the index"):
        read_index(tmp_path)


def test_a_shard_survives_json():
    shard = Shard("train-00000.tar", 5000, "ab", 1030, 2, (Block(640, 1024, "cd"), Block(3328, 6, "ef")))
    assert shard_of(json.loads(json.dumps(shard_record(shard)))) == shard
    with pytest.raises(ValueError, match="add up"):
        replace(shard, tokens=1)
