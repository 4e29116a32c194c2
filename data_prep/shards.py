"""The shard format as a reader meets it: the index of a data set, and one block by its number.

`docs/shard_format.md` describes it to the byte. Nothing here parses a tar: the index knows where each
block lies and what it hashes to, so a reader trusts no header that it meets in a file.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from conf.exits import CorruptError, DatasetError
from data_prep.packing import DTYPE

FORMAT = 2
INDEX = "index.json"
SPLITS = ("train", "validation")
# A block's payload follows one tar header and the 128 bytes of NumPy's (version 1.0, one dimension).
TAR_HEADER = 512
NUMPY_HEADER = 128

_SHARD_NAME = re.compile(r"(train|validation)-[0-9]{5,8}\.tar")


@dataclass(frozen=True)
class Block:
    """Where a block lies in its shard."""

    offset: int  # of the first payload byte, in the shard file
    tokens: int  # payload tokens; one overlap token follows them
    digest: str  # of payload and overlap token; see `block_digest`


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    name: str
    bytes: int
    sha256: str
    tokens: int
    documents: int
    blocks: Sequence[Block]

    def __post_init__(self):
        if not _SHARD_NAME.fullmatch(self.name):
            raise ValueError(f"shard name {self.name!r}")
        if self.tokens != sum(block.tokens for block in self.blocks):
            raise ValueError(f"{self.name}: its blocks do not add up to {self.tokens} tokens")
        end = 0
        for block in self.blocks:
            if block.offset < end or block.tokens < 1:
                raise ValueError(f"{self.name}: block at {block.offset} overlaps the one before, or is empty")
            end = block.offset + (block.tokens + 1) * DTYPE.itemsize
        if end > self.bytes:
            raise ValueError(f"{self.name}: a block ends at {end}, beyond the file's {self.bytes} bytes")


@dataclass(frozen=True)
class Split:
    """The shards of `train` or `validation`."""

    tokens: int
    documents: int
    shards: Sequence[Shard]

    def __post_init__(self):
        for name in ("tokens", "documents"):
            total = sum(getattr(shard, name) for shard in self.shards)
            if total != getattr(self, name):
                raise ValueError(f"the shards hold {total} {name}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Index:
    """A finished data set."""

    location: str  # the folder that holds it, or its URL
    fingerprint: str  # SHA-256 of the bytes of index.json: two data sets are one if it is equal
    tokenizer: str
    vocabulary_sha256: str
    end_of_text: int
    block_tokens: int
    splits: Mapping[str, Split]
    validation_rule: str  # "hash": a slice of the documents; "tail": the end of the last shard; "none"
    counts: Mapping[str, Any] = field(default_factory=dict)  # documents and bytes of text; see counts.py
    overlap: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # 8-grams of evaluation sets met
    config: Mapping[str, Any] = field(default_factory=dict)  # the settings that decided the bytes
    config_sha256: str = ""

    @property
    def corpus(self) -> str | None:
        """Return the name of the corpus, a preset's or one that was given, if it has any."""
        corpus = self.config.get("corpus") if isinstance(self.config, Mapping) else None
        name = corpus.get("name") if isinstance(corpus, Mapping) else None
        return name if isinstance(name, str) else None

    @property
    def directory(self) -> Path:
        """Return the folder of a data set on a local disk; raise DatasetError for one behind a URL."""
        if ":" in self.location.partition("/")[0]:
            raise DatasetError(f"{self.location} is not a local folder; copy the data set to one first")
        return Path(self.location)


def read_index(path: Path | str) -> Index:
    """Return the index at `path`: the file index.json, or the folder that holds it.

    Raises DatasetError if it is missing, is not an index, or is of another format version or dtype.
    """
    path = Path(path).expanduser()
    path = path / INDEX if path.is_dir() else path
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(
            f"{path} does not exist; make it with data_prep.prepare, then data_prep.finalize"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    return parse_index(content, str(path.parent.resolve()))


def parse_index(content: bytes, location: str) -> Index:
    """Return the index whose file holds `content`; raise DatasetError as `read_index` does."""
    path = f"{location}/{INDEX}"
    try:
        raw = json.loads(content)
        version, dtype = raw["format"], raw["dtype"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DatasetError(f"{path} is not the index of a data set") from None
    if version != FORMAT:
        raise DatasetError(
            f"{path} has format {version}, this program reads {FORMAT}; prepare the corpus again"
        )
    if dtype != DTYPE.name:
        raise DatasetError(f"{path} holds {dtype} tokens, this program reads {DTYPE.name}")
    try:
        return _index(location, hashlib.sha256(content).hexdigest(), raw)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DatasetError(f"{path} is not a valid index: {type(error).__name__} {error}") from None


def read_block(directory: Path, shard: Shard, number: int) -> np.ndarray:
    """Return a block and its overlap token: uint16, (tokens + 1,), checked against its digest.

    Raises as `read_block_into` does.
    """
    block = shard.blocks[number]
    path = directory / shard.name
    held = path.stat().st_size if path.is_file() else shard.bytes  # what is missing is told below
    if block.offset + (block.tokens + 1) * DTYPE.itemsize > min(held, shard.bytes):  # before memory is taken
        raise CorruptError(
            f"{path}: member {member_name(number)} at offset {block.offset} differs from the index "
            f"(the file has {held} of {shard.bytes} bytes); copy the shard again"
        )
    tokens = np.empty(block.tokens + 1, DTYPE)
    read_block_into(directory, shard, number, tokens)
    return tokens


def read_block_into(directory: Path, shard: Shard, number: int, into: np.ndarray) -> None:
    """Write a block and its overlap token to `into`, uint16 (tokens + 1,), and check it.

    Raises DatasetError if the shard's file is missing or may not be read, and CorruptError, naming shard,
    member and offset, if its bytes are not those of the index.
    """
    path = f"{directory}/{shard.name}"
    try:
        # Without waiting: a named pipe in the place of a shard would hold us for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing, though the index lists it; copy it again") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; mend it or copy it again") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptError(f"{path} is not a file, though the index lists it; copy the shard again")
        view, offset = memoryview(into.data).cast("B"), shard.blocks[number].offset
        done = 0
        while done < len(view) and (count := os.preadv(descriptor, [view[done:]], offset + done)):
            done += count
    finally:
        os.close(descriptor)
    check_block(view[:done], shard, number, path, size=status.st_size)


def check_block(
    content: bytes | memoryview, shard: Shard, number: int, path: str, *, size: int | None = None
) -> None:
    """Raise CorruptError, naming shard, member and offset, unless `content` is what the index says.

    `size` is that of the file that the shard was read from, if it is known.
    """
    block = shard.blocks[number]
    if block_digest(content) != block.digest:
        cut = f" (the file has {size} of {shard.bytes} bytes)" if size not in {None, shard.bytes} else ""
        raise CorruptError(
            f"{path}: member {member_name(number)} at offset {block.offset} differs from the index{cut}; "
            "copy the shard again"
        )


def block_digest(content: bytes | bytearray | memoryview) -> str:
    """Return the XXH3 of a block's bytes, overlap token included: 64 bits, 16 hexadecimal digits.

    It is made against accident, and costs a fortieth of a SHA-256, which each reading rank would pay for
    every token. What vouches against intent is the SHA-256 of the shard, which `data_prep.verify` takes.
    """
    return xxh3_64_hexdigest(content)


def member_name(number: int) -> str:
    """Return the name of a block's member in the tar."""
    return f"{number:09d}.npy"


def shard_record(shard: Shard) -> dict[str, Any]:
    """Return a shard as index.json writes it."""
    return {
        "name": shard.name,
        "bytes": shard.bytes,
        "sha256": shard.sha256,
        "tokens": shard.tokens,
        "documents": shard.documents,
        "blocks": [[block.offset, block.tokens, block.digest] for block in shard.blocks],
    }


def shard_of(record: Mapping[str, Any]) -> Shard:
    """Return the shard that `shard_record` wrote; raise ValueError, KeyError or TypeError for nonsense."""
    blocks = tuple(
        Block(int(offset), int(tokens), str(digest)) for offset, tokens, digest in record["blocks"]
    )
    return Shard(
        name=str(record["name"]),
        bytes=int(record["bytes"]),
        sha256=str(record["sha256"]),
        tokens=int(record["tokens"]),
        documents=int(record["documents"]),
        blocks=blocks,
    )


def _index(location: str, fingerprint: str, raw: Mapping[str, Any]) -> Index:
    splits = {}
    for name in SPLITS:
        shards = tuple(shard_of(record) for record in raw["splits"][name]["shards"])
        splits[name] = Split(
            int(raw["splits"][name]["tokens"]), int(raw["splits"][name]["documents"]), shards
        )
    index = Index(
        location=location,
        fingerprint=fingerprint,
        tokenizer=str(raw["tokenizer"]),
        vocabulary_sha256=str(raw["vocabulary_sha256"]),
        end_of_text=int(raw["end_of_text"]),
        block_tokens=int(raw["block_tokens"]),
        splits=MappingProxyType(splits),
        validation_rule=str(raw["validation_rule"]),
        counts=raw["counts"],
        overlap=raw["overlap"],
        config=raw["config"],
        config_sha256=str(raw["config_sha256"]),
    )
    _check_blocks(index)
    return index


def _check_blocks(index: Index) -> None:
    """Raise ValueError unless every block but a shard's last is full."""
    for split in index.splits.values():
        for shard in split.shards:
            if any(block.tokens != index.block_tokens for block in shard.blocks[:-1]):
                raise ValueError(f"{shard.name} has a short block before its last")
            if any(block.tokens > index.block_tokens for block in shard.blocks[-1:]):
                raise ValueError(f"{shard.name} has a block of more than {index.block_tokens} tokens")
