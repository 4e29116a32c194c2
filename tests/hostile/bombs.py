"""Small files that would become large ones, and short texts that would become long ones."""

import bz2
import gzip
import json
import lzma
import struct
import zlib
from collections.abc import Iterator

import pyarrow as pa

from data_prep.shards import FORMAT

MEBIBYTE = 1 << 20
_UNPACKED = 600 * MEBIBYTE


def packed() -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of compressed files that unpack to 600 MiB."""
    zeros = bytes(MEBIBYTE)
    count = _UNPACKED // MEBIBYTE
    one = gzip.compress(zeros * 4, mtime=0)
    yield "many members.jsonl.gz", one * (count // 4)
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    yield "one line.jsonl.gz", b"".join([*(packer.compress(zeros) for _ in range(count)), packer.flush()])
    yield "twice.jsonl.gz", gzip.compress(one * (count // 4), mtime=0)
    yield "bomb.jsonl.bz2", bz2.compress(zeros * 8) * (count // 8)
    yield "bomb.jsonl.xz", lzma.compress(zeros * 8, preset=1) * (count // 8)
    yield "bomb.jsonl.zst", pa.compress(zeros * 8, codec="zstd", asbytes=True) * (count // 8)
    yield "bomb.txt.gz", one * (count // 4)


def indexes() -> Iterator[tuple[str, bytes]]:
    """Yield contents of an index.json that is deep, wide or large for its few claims."""
    yield "depth 100,000", b"[" * 100_000 + b"]" * 100_000
    yield "a million lists", b"[" + b"[]," * MEBIBYTE + b"[]]"
    yield "an integer of a million digits", b'{"format": ' + b"9" * MEBIBYTE + b"}"
    shard = {
        "name": "train-00000.tar",
        "bytes": 2**62,
        "sha256": "",
        "tokens": 2**40,
        "documents": 1,
        "digests": "0" * 16,
    }
    split = {"tokens": 2**40, "documents": 1, "shards": [shard]}
    empty = {"tokens": 0, "documents": 0, "shards": []}
    facts = {"tokenizer": "gpt2", "vocabulary_sha256": "", "end_of_text": 0, "block_tokens": 2**40}
    rest = {"validation_rule": "hash", "counts": {}, "overlap": {}, "config": {}, "config_sha256": ""}
    index = {
        "format": FORMAT,
        "dtype": "uint16",
        **facts,
        **rest,
        "splits": {"train": split, "validation": empty},
    }
    yield "a block of 2 TiB", json.dumps(index).encode()


def laughs() -> str:
    """Return YAML whose aliases stand for a billion words."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join([*lines, "run_dir: *a9"]) + "\n"


def header() -> bytes:
    """Return a safetensors file whose header is 90 MiB of spaces."""
    text = b"{}".ljust(90 * MEBIBYTE)
    return struct.pack("<Q", len(text)) + text
