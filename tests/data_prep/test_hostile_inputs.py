"""Archives, names and folders that were made to do harm, or that a broken tool leaves."""

import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import as_jsonl, documents

from conf.exits import CorruptError, DatasetError, Exit
from data_prep.counts import Drop
from data_prep.documents import Document, Piece, read_documents
from data_prep.index import read_index
from data_prep.shards import FORMAT, read_block
from data_prep.sources import CorpusConfig
from data_prep.tokenizer import load_tokenizer
from data_prep.verify import verify_shard

Make = Callable[..., Path]
Called = Callable[..., tuple[int, str]]
MEMBER_NAMES = [
    *("../../../../tmp/evil.npy", "/abs/evil.npy", "a\0b.npy", "a\nb.npy", "\x1b[2J.npy", "x" * 100 + ".npy"),
    *("000000000.pkl", "000000000.pyd", "000000000.pth", "..", ".", "", "-rf.npy", "con", "000000000.NPY"),
]
MEMBER_KINDS = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
SHARD_NAMES = [
    *(
        "pipe:cat /etc/passwd",
        "PIPE:ls",
        " pipe:ls",
        "pipe:ls|",
        "http://host/train-00000.tar",
        "-",
        "--help",
    ),
    *("https://host/train-00000.tar", "hf://datasets/a/b/train-00000.tar", "s3://b/train-00000.tar", "gs:x"),
    *(
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "train-{00000..00009}.tar",
        "train-{{0..9}}.tar",
        "train-*.tar",
    ),
    *("../train-00000.tar", "/train-00000.tar", "a/train-00000.tar", "train-00000.tar ", " train-00000.tar"),
    *("train-00000.tar\n", "train-00000.tar\0", "train-00000.tar.gz", "Train-00000.tar", "TRAIN-00000.TAR"),
    *("train-0.tar", "train-000000000.tar", "test-00000.tar", "train-00000.tar::x", "train-٠٠٠٠٠.tar", ""),
    *("train-00000.pyd", "train-00000.pkl", "$(id).tar", "`id`.tar", "ssh://host/train-00000.tar", "rb:x"),
]


def archive(name: str, kind: bytes, content: bytes, *, pax: bool, size: int | None) -> bytes:
    """Return a tar of one hostile member."""
    buffer = io.BytesIO()
    layout = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        info.size = len(content)
        if pax:
            info.pax_headers = {"path": "/etc/cron.d/evil", "size": "99999999999"}
        tar.addfile(info, io.BytesIO(content))
    raw = buffer.getvalue()
    return raw if size is None else raw[:124] + b"%011o\0" % size + raw[136:]


def test_no_hostile_archive_is_read_as_a_shard(make: Make, tmp_path: Path):
    output = make([as_jsonl(tmp_path / "a.jsonl", documents(60))])
    index = read_index(output)
    shard = index.splits["train"].shards[0]
    path, before = output / shard.name, set(tmp_path.rglob("*"))
    whole, lengths = path.read_bytes(), load_tokenizer().byte_lengths()
    hostile = [
        archive(name, kind, whole[512:2000], pax=pax, size=None)
        for name in MEMBER_NAMES
        for kind in MEMBER_KINDS
        for pax in (False, True)
    ]
    hostile += [
        archive("000000000.npy", tarfile.REGTYPE, b"x", pax=False, size=n) for n in (0, 8**10, 8**11 - 1)
    ]
    doubled = whole[: len(whole) - tarfile.RECORDSIZE] + whole  # the same keys twice
    for content in [*hostile, doubled, b"\0" * 10240, b""]:
        path.write_bytes(content)
        with pytest.raises(CorruptError):
            verify_shard(index, shard, lengths)
        if content is not doubled:  # its first bytes are the shard's own
            with pytest.raises(CorruptError):
                read_block(output, shard, 0)
    assert len(hostile) > 60
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", SHARD_NAMES)
def test_an_index_names_no_place_but_a_shard_beside_it(name: str, make: Make, tmp_path: Path):
    record = {
        **{
            "format": FORMAT,
            "dtype": "uint16",
            "tokenizer": "gpt2",
            "vocabulary_sha256": "",
            "end_of_text": 50256,
        },
        **{"block_tokens": 1024, "validation_rule": "none", "counts": {}, "overlap": {}, "config": {}},
        "config_sha256": "",
        "splits": {split: {"tokens": 0, "documents": 0, "shards": []} for split in ("train", "validation")},
    }
    (tmp_path / "index.json").write_text(json.dumps(record))
    read_index(tmp_path)
    record["splits"]["train"]["shards"] = [
        {"name": name, "bytes": 10240, "sha256": "", "tokens": 0, "documents": 0, "digests": ""}
    ]
    (tmp_path / "index.json").write_text(json.dumps(record))
    with pytest.raises(DatasetError, match="not a valid index") as caught:
        read_index(tmp_path)
    assert "\n" not in str(caught.value)


def test_of_200_byte_strings_each_is_a_document_or_counted(tmp_path: Path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    odd = [
        b"\x80",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xff",
        b"\xf5\x80\x80\x80",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xf0\x9f",
    ]
    for number in range(200):
        content = b"".join(
            chance.choice([*odd, b"text ", "北京".encode()]) for _ in range(chance.randint(1, 6))
        )
        path = tmp_path / f"{number}.txt"
        path.write_bytes(content)
        piece = Piece(str(path), 0, len(content))
        found = {
            errors: list(read_documents(piece, CorpusConfig("text", ["a"], errors=errors), 1000))
            for errors in ("replace", "drop")
        }
        assert len(found["replace"]) == len(found["drop"]) == 1
        (replaced,) = found["replace"]
        assert isinstance(replaced, Document)
        assert replaced.text == content.decode("utf-8", "replace")
        try:
            expected = content.decode()
        except UnicodeDecodeError as error:
            assert found["drop"] == [Drop.UNDECODABLE]
            with pytest.raises(DatasetError, match=rf"{number}\.txt: byte {error.start} is not UTF-8"):
                list(read_documents(piece, CorpusConfig("text", ["a"]), 1000))
        else:
            assert found["drop"] == [Document(expected, content)]


PLACES = [
    ("{0}/a.jsonl/data", "a folder below a file"),
    ("{0}/" + "n" * 300, "a name that is too long"),
    ("/proc/none/data", "a file system that takes no folders"),
    ("/dev/null", "a device"),
    ("{0}/a.jsonl", "a file"),
]


@pytest.mark.parametrize(("place", "what"), PLACES)
def test_an_output_that_cannot_be_is_one_line(place: str, what: str, tmp_path: Path, exit_line: Called):
    as_jsonl(tmp_path / "a.jsonl", documents(5))
    arguments = ["corpus=jsonl", f"corpus.paths=[{tmp_path}/a.jsonl]", f"output={place.format(tmp_path)}"]
    code, line = exit_line("prepare", *arguments)
    assert code in {Exit.CONFIG, Exit.DATASET, Exit.DISK}, what
    assert line.count("\n") == 1
    assert (tmp_path / "a.jsonl").stat().st_size > 0
