import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from corpora import as_jsonl, documents

from conf.exits import DatasetError
from data_prep.index import read_index, shard_of, shard_record
from data_prep.shards import Shard


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


def test_a_missing_index_says_how_to_make_one(tmp_path: Path):
    for place in (tmp_path, tmp_path / "none", tmp_path / "none" / "index.json"):
        with pytest.raises(DatasetError, match=r"index\.json does not exist; make it .*data_prep\.finalize"):
            read_index(place)


def test_another_file_is_named_not_the_index_that_it_is_not(tmp_path: Path):
    path = tmp_path / "notes.md"
    path.write_text("{}")
    with pytest.raises(DatasetError, match=r"notes\.md is not the index\.json of a data set"):
        read_index(path)


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
    lambda raw: _first(raw).update(tokens=-1024),
    lambda raw: _first(raw).update(bytes="none"),
    lambda raw: _first(raw).pop("digests"),
    lambda raw: _first(raw).update(tokens=1 << 70, bytes=1 << 80),
    lambda raw: raw.update(block_tokens=0),
    lambda raw: raw.update(block_tokens=1 << 25),
    lambda raw: raw.update(block_tokens=1),
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
    shard = Shard("train-00000.tar", 10_240, "ab", 1030, 2, "cd", 1024)
    assert shard_of(json.loads(json.dumps(shard_record(shard))), 1024) == shard
    with pytest.raises(ValueError, match="beyond the file's 10240 bytes"):
        replace(shard, tokens=10_000)
    with pytest.raises(ValueError, match="a shard has at most 16777216"):
        replace(shard, tokens=1 << 35, bytes=1 << 40)
