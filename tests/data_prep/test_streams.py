import bz2
import gzip
import lzma
import random
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from conf.exits import DatasetError
from data_prep.streams import compression_of, open_content, open_seekable


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": zstd,
    "xz": lzma.compress,
    "bz2": bz2.compress,
}
FORMATS = pytest.mark.parametrize("ending", PACK)


@pytest.fixture(scope="module")
def text() -> bytes:
    chance = random.Random(0)
    return b"".join(b"%d some text %d\n" % (n, chance.getrandbits(60)) for n in range(20_000))


def read(path: Path) -> bytes:
    with open_content(str(path)) as file:
        return file.read()


@FORMATS
def test_the_content_is_what_was_packed(ending: str, text: bytes, tmp_path: Path):
    path = tmp_path / f"a.txt.{ending}"
    path.write_bytes(PACK[ending](text))
    assert read(path) == text
    with open_content(str(path)) as file:
        assert b"".join(file) == text
    with open_seekable(str(path)) as file:
        file.seek(-5, 2)
        assert file.read() == text[-5:]


@FORMATS
def test_streams_behind_one_another_are_one_content(ending: str, text: bytes, tmp_path: Path):
    path = tmp_path / f"a.txt.{ending}"
    path.write_bytes(PACK[ending](text) + PACK[ending](b"") + PACK[ending](b"end"))
    assert read(path) == text + b"end"


@FORMATS
def test_no_truncation_passes(ending: str, text: bytes, tmp_path: Path):
    path, chance = tmp_path / f"a.txt.{ending}", random.Random(1)
    one = PACK[ending](text[:50_000])
    whole = one + PACK[ending](b"second stream")
    for _ in range(300):
        at = chance.choice([chance.randrange(len(whole)), chance.randrange(len(one) + 1, len(whole))])
        if at == len(one):
            continue  # the end of a stream: nothing in the file says that another one followed
        path.write_bytes(whole[:at])
        with pytest.raises(DatasetError, match=rf"a\.txt\.{ending} is not a whole"):
            read(path)


@FORMATS
def test_no_garbage_behind_a_stream_passes(ending: str, text: bytes, tmp_path: Path):
    path = tmp_path / f"a.txt.{ending}"
    for garbage in (b"garbage", b"\x01", PACK[ending](b"x")[1:]):
        path.write_bytes(PACK[ending](text) + garbage)
        with pytest.raises(DatasetError, match="is not a whole"):
            read(path)


@pytest.mark.parametrize("ending", ["gz", "xz", "bz2"])
def test_no_flipped_bit_changes_the_content_unseen(ending: str, text: bytes, tmp_path: Path):
    path, chance = tmp_path / f"a.txt.{ending}", random.Random(2)
    whole, content, refused = PACK[ending](text[:20_000]), text[:20_000], 0
    for _ in range(300):
        at = chance.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        try:
            assert read(path) == content  # a flag or a time in the header
        except DatasetError:
            refused += 1
    assert refused > 250


@FORMATS
def test_a_file_that_is_not_what_its_name_says_is_refused(ending: str, tmp_path: Path):
    for content in (b"", b"plain text", b"\x00" * 100):
        (tmp_path / f"a.{ending}").write_bytes(content)
        with pytest.raises(DatasetError, match="is not a whole"):
            read(tmp_path / f"a.{ending}")


def test_padding_behind_gzip_is_no_garbage(text: bytes, tmp_path: Path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(text) + bytes(1000))
    assert read(tmp_path / "a.gz") == text


@FORMATS
def test_a_bomb_is_refused_before_it_fills_the_memory(ending: str, tmp_path: Path):
    path = tmp_path / f"bomb.{ending}"
    path.write_bytes(PACK[ending](bytes(1 << 27)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    produced = 0
    with open_content(str(path)) as file, suppress(DatasetError):
        while part := file.read(1 << 16):
            produced += len(part)
    assert produced <= 1001 * path.stat().st_size + (1 << 20)
    if ending != "gz":  # deflate itself ends near 1000-fold
        assert produced < 1 << 27
    kilobytes = 1 if sys.platform == "linux" else 1024
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (64 << 10) * kilobytes


def test_the_name_says_how_a_file_is_compressed():
    names = ["a.txt", "a.txt.GZ", "a.jsonl.zst", "s3://bucket/a.parquet.xz", "a.bz2", "gz"]
    assert [compression_of(name) for name in names] == [None, "gzip", "zstd", "xz", "bz2", None]
    assert compression_of("https://host/a.jsonl.gz?name=b.txt&signature=x.zst#y.xz") == "gzip"
    assert compression_of("https://host/get?name=a.gz") is None
    assert compression_of("s3://bucket/a?b.gz") == compression_of("/data/a?b.gz") == "gzip"


@FORMATS
def test_a_packed_file_that_is_named_as_a_plain_one_is_refused(ending: str, text: bytes, tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(PACK[ending](text))
    with pytest.raises(DatasetError, match=rf"a\.jsonl is a .* file, .* \.{ending}"):
        read(tmp_path / "a.jsonl")
    for plain in (PACK[ending](text)[:2], b"BZh9 is no magic", b""):
        (tmp_path / "a.jsonl").write_bytes(plain)
        assert read(tmp_path / "a.jsonl") == plain
