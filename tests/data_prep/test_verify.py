import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpora import as_jsonl, documents

from conf.exits import CorruptError, Exit
from data_prep import verify
from data_prep.index import read_index
from data_prep.tokenizer import load_tokenizer
from data_prep.verify import verify_shard

Make = Callable[..., Path]
Called = Callable[..., tuple[int, str]]


@pytest.fixture
def data(make: Make, tmp_path: Path) -> Path:
    return make([as_jsonl(tmp_path / "a.jsonl", documents(120))])


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    return load_tokenizer().byte_lengths()


def test_a_whole_data_set_is_reported_with_its_totals(data: Path, capsys: pytest.CaptureFixture[str]):
    verify.main([f"output={data}"])
    index = read_index(data)
    line = capsys.readouterr().out.splitlines()[-1]
    assert f"{sum(split.tokens for split in index.splits.values()):,} tokens" in line
    assert "120 documents" in line


def test_any_changed_byte_of_any_shard_is_found(data: Path, lengths: np.ndarray):
    chance = random.Random(0)
    index = read_index(data)
    for _ in range(120):
        shard = chance.choice([shard for split in index.splits.values() for shard in split.shards])
        path = data / shard.name
        whole, at = path.read_bytes(), chance.randrange(shard.bytes)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        with pytest.raises(CorruptError, match=shard.name):
            verify_shard(index, shard, lengths)
        path.write_bytes(whole)
        verify_shard(index, shard, lengths)


def test_any_truncation_or_addition_is_found(data: Path, lengths: np.ndarray):
    index = read_index(data)
    shard = index.splits["train"].shards[0]
    path = data / shard.name
    whole = path.read_bytes()
    for content in [whole[:at] for at in range(0, len(whole), 311)] + [whole + b"\0", whole + whole]:
        path.write_bytes(content)
        with pytest.raises(CorruptError, match=shard.name):
            verify_shard(index, shard, lengths)


def test_a_shard_in_the_place_of_another_is_found(data: Path, exit_line: Called):
    first, second = read_index(data).splits["train"].shards[:2]
    (data / first.name).write_bytes((data / second.name).read_bytes())
    assert exit_line("verify", f"output={data}")[0] == Exit.CORRUPT


def test_a_changed_block_is_named_by_member_and_offset(data: Path, exit_line: Called):
    shard = read_index(data).splits["train"].shards[0]
    content = bytearray((data / shard.name).read_bytes())
    content[shard.block(1).offset + 20] ^= 4
    (data / shard.name).write_bytes(content)
    _, line = exit_line("verify", f"output={data}")
    assert f"member 000000001.npy at offset {shard.block(1).offset}" in line


def test_a_missing_shard_is_a_missing_data_set(data: Path, exit_line: Called):
    (data / "train-00000.tar").unlink()
    assert exit_line("verify", f"output={data}")[0] == Exit.DATASET


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"vocabulary_sha256": "0" * 64}, Exit.DATASET, "vocabulary"),
        ({"end_of_text": 220}, Exit.CORRUPT, "documents"),
        ({"counts": {"text_bytes": 1}}, Exit.CORRUPT, "index.json: counts.text_bytes is 1, though"),
    ],
    ids=["vocabulary", "end-of-text", "bytes"],
)
def test_an_index_that_tells_another_story_is_found(
    change: dict, code: Exit, message: str, data: Path, exit_line: Called
):
    raw = json.loads((data / "index.json").read_text())
    (data / "index.json").write_text(json.dumps({**raw, **change}))
    found, line = exit_line("verify", f"output={data}")
    assert (found, message in line) == (code, True)
