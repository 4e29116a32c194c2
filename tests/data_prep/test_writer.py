import gc
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from data_prep.packing import Stream
from data_prep.shards import Shard, read_digests
from data_prep.writer import DIGESTS, METADATA, frames, write_shard


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50257, 5000).astype(np.uint16)


@pytest.fixture
def shard(tokens: np.ndarray, tmp_path: Path) -> Shard:
    return written(tmp_path, tokens, 7, documents=3)


def written(folder: Path, tokens: np.ndarray, following: int, *, documents: int) -> Shard:
    blocks = Stream([tokens, np.array([following], np.uint16)]).blocks(len(tokens), 1024)
    facts = {"block_tokens": 1024, "documents": documents}
    return write_shard(folder / "train-00000.tar", blocks, **facts, scratch=folder)


def test_tarfile_lists_the_blocks_and_the_metadata(shard: Shard, tokens: np.ndarray, tmp_path: Path):
    with tarfile.open(tmp_path / shard.name) as tar:
        members = tar.getmembers()
        names = [member.name for member in members]
        assert names == [f"{number:09d}.npy" for number in range(5)] + [DIGESTS, METADATA]
        assert all((m.mtime, m.uid, m.gid, m.uname, m.mode) == (0, 0, 0, "", 0o644) for m in members)
        arrays = [np.load(io.BytesIO(tar.extractfile(m).read())) for m in members[:-2]]
        digests = np.frombuffer(tar.extractfile(DIGESTS).read(), "<u8")
        metadata = json.load(tar.extractfile(METADATA))
    assert np.concatenate([array[:-1] for array in arrays]).tolist() == tokens.tolist()
    assert [len(array) for array in arrays] == [1025, 1025, 1025, 1025, 905]
    assert digests.tolist() == [xxh3_64_intdigest(array.tobytes()) for array in arrays]
    assert shard.digests == xxh3_64_hexdigest(digests.tobytes())
    facts = {"documents": 3, "tokens": 5000, "block_tokens": 1024}
    assert metadata == {"format": 2, "dtype": "uint16", **facts}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its file open
def test_webdataset_yields_the_arrays_and_skips_the_metadata(
    shard: Shard, tokens: np.ndarray, tmp_path: Path
):
    samples = list(wds.WebDataset(str(tmp_path / shard.name), shardshuffle=False, empty_check=False).decode())
    gc.collect()
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in range(5)]
    assert np.concatenate([sample["npy"][:-1] for sample in samples]).tolist() == tokens.tolist()


def test_the_payload_lies_where_the_index_says(shard: Shard, tokens: np.ndarray, tmp_path: Path):
    path, start = tmp_path / shard.name, 0
    for block in map(shard.block, range(shard.block_count)):
        payload = np.memmap(path, "<u2", "r", offset=block.offset, shape=(block.tokens + 1,))
        assert payload[:-1].tolist() == tokens[start : start + block.tokens].tolist()
        start += block.tokens
    assert start == shard.tokens == len(tokens)


def test_the_index_entry_describes_the_file(shard: Shard, tmp_path: Path):
    content = (tmp_path / shard.name).read_bytes()
    assert len(content) == shard.bytes
    assert hashlib.sha256(content).hexdigest() == shard.sha256
    assert len(content) % tarfile.RECORDSIZE == 0
    assert list(tmp_path.glob(".*")) == []


def test_the_frames_are_all_of_the_file_that_is_not_payload(shard: Shard, tmp_path: Path):
    content, end = (tmp_path / shard.name).read_bytes(), 0
    *before, after = frames(shard, read_digests(tmp_path, shard))
    for frame, block in zip(before, map(shard.block, range(shard.block_count)), strict=True):
        assert content[end : block.offset] == frame
        end = block.offset + 2 * (block.tokens + 1)
    assert content[end:] == after


def test_the_bytes_are_pinned(tmp_path: Path):
    # Another hash means that every data set made before has other bytes: raise FORMAT in shards.py.
    tokens = np.arange(3000, dtype=np.uint16)
    shard = written(tmp_path, tokens, 50256, documents=1)
    assert shard.sha256 == "ef7e1d0b2f5b0d1f8e9fffdc1f03925c7086c448ed05c5eb568cc3d6136432c4"


def test_a_shard_that_fails_half_way_leaves_nothing(tokens: np.ndarray, tmp_path: Path):
    def failing():
        yield tokens
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_shard(tmp_path / "train-00000.tar", failing(), block_tokens=1024, documents=1, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []
