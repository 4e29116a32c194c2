"""How the index of a large data set is opened without parsing it: from a table that was derived from it.

A trillion tokens are 15 million blocks: as JSON 37 CPU seconds and 6 GB, of every rank at every
resume. So whoever parses a large index.json first leaves `index.blocks` beside it, one fixed record a
shard and one a block; what is read of it afterwards is the shards' part, a few megabytes, and then each
block's 16 bytes as the block is opened. It is never published and never asked for: index.json stays the
truth, a table that is not of this very file, or not whole, is passed over and made again.
"""

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from conf.exits import DatasetError
from data_prep.publish import read_exactly, replacing
from data_prep.shards import Block, Index, Shard, Split

NAME = "index.blocks"
_MAGIC = b"gpt2blk1"
# Of index.json; 100,000 blocks. Smaller ones are parsed in a fifth of a second.
_LEAST_BYTES = 4 << 20
_MOST_HEAD_BYTES = 1 << 30
_PREFACE = struct.Struct("<8s32sqq")  # magic, SHA-256 of what follows up to the blocks, its lengths
_BLOCK = struct.Struct("<qQ")  # offset, digest
_SHARD = np.dtype(
    [
        ("name", "S32"),
        ("bytes", "<i8"),
        ("sha256", "S64"),
        ("tokens", "<i8"),
        ("documents", "<i8"),
        ("blocks", "<i8"),
        ("last", "<i8"),  # tokens of the last block; all others are full
    ]
)


class _Version(NamedTuple):
    """What changes when index.json does."""

    bytes: int
    mtime_ns: int


class _File:
    """A table that is open until nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # there was no such file
            os.close(self.descriptor)


class _Blocks(Sequence[Block]):
    """The blocks of one shard, each read when it is asked for."""

    def __init__(self, file: _File, begin: int, sizes: tuple[int, int, int]) -> None:
        self._file, self._begin = file, begin
        self._count, self._full, self._last = sizes

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> Block: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Block]: ...
    def __getitem__(self, number: int | slice) -> Block | Sequence[Block]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(self._count))]
        number = range(self._count)[number]
        try:
            record = os.pread(self._file.descriptor, _BLOCK.size, self._begin + number * _BLOCK.size)
            offset, digest = _BLOCK.unpack(record)
        except (OSError, struct.error) as error:
            raise DatasetError(f"{self._file.path} cannot be read ({error}); remove it") from None
        return Block(offset, self._last if number == self._count - 1 else self._full, f"{digest:016x}")


class _KnownShard(Shard):
    """A shard whose blocks were checked when the table was made."""

    def __post_init__(self) -> None:
        """Check nothing."""


class _KnownSplit(Split):
    """A split whose shards were."""

    def __post_init__(self) -> None:
        """Check nothing."""


class ShardTable(Sequence[Shard]):
    """The shards of one split, each made when it is asked for."""

    def __init__(self, file: _File, records: np.ndarray, *, block_tokens: int, begin: int) -> None:
        """Take where the records of the first shard's first block begin."""
        self._file, self._records, self._full = file, records, block_tokens
        firsts = np.cumsum(records["blocks"]) - records["blocks"]
        self._begins = begin + firsts * _BLOCK.size

    @property
    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each shard's number of blocks, and the tokens of its last one; see `sizes`."""
        return self._records["blocks"], self._records["last"]

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, number: int) -> Shard: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Shard]: ...
    def __getitem__(self, number: int | slice) -> Shard | Sequence[Shard]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        name, size, sha256, tokens, documents, count, last = self._records[number].item()
        blocks = _Blocks(self._file, int(self._begins[number]), (count, self._full, last))
        return _KnownShard(name.decode(), size, sha256.decode(), tokens, documents, blocks)


def sizes(shards: Sequence[Shard]) -> tuple[np.ndarray, np.ndarray]:
    """Return how many blocks each shard has, and how many tokens its last one (0 if it has none): int64."""
    if isinstance(shards, ShardTable):
        return shards.sizes
    counts = [len(shard.blocks) for shard in shards]
    lasts = [shard.blocks[-1].tokens if shard.blocks else 0 for shard in shards]
    return np.array(counts, np.int64), np.array(lasts, np.int64)


def opened(path: Path) -> Index | None:
    """Return the index of index.json at `path` from the table beside it; None if there is none of it."""
    try:
        version = _version(path)
        file = _File(path.with_name(NAME))
        head, records = _head(file, path)
        if head["version"] != list(version) and head["fingerprint"] != _fingerprint(path):
            return None
        return _index(file, head, records, str(path.parent.resolve()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def derive(path: Path, index: Index, since: os.stat_result) -> None:
    """Leave the table of a large index.json beside it, if the folder takes it.

    `since` is what the file was before `index` was read from it: one that has changed gets no table.
    """
    with contextlib.suppress(OSError, ValueError):
        version = _version(path)
        if version.bytes >= _LEAST_BYTES and version == _Version(since.st_size, since.st_mtime_ns):
            with replacing(path.with_name(NAME)) as file:
                for part in _content(index, version):
                    file.write(part)
                os.fchmod(file.fileno(), path.stat().st_mode & 0o666)


def _content(index: Index, version: _Version) -> Iterator[bytes]:
    """Yield the table's bytes; raise ValueError if it cannot hold what the index says."""
    shards = [shard for split in index.splits.values() for shard in split.shards]
    records = np.zeros(len(shards), _SHARD)
    for number, (shard, count, last) in enumerate(zip(shards, *sizes(shards), strict=True)):
        facts = (shard.name.encode(), shard.bytes, shard.sha256.encode(), shard.tokens, shard.documents)
        records[number] = (*facts, count, last)
        if records[number].item()[:5] != facts:
            raise ValueError(f"{shard.name} does not fit into a record")
    told = {name: getattr(index, name) for name in _TOLD}
    splits = {name: [s.tokens, s.documents, len(s.shards)] for name, s in index.splits.items()}
    head = json.dumps({"version": version, "splits": splits, **told}, default=dict).encode()
    body = head + records.tobytes()
    yield _PREFACE.pack(_MAGIC, hashlib.sha256(body).digest(), len(head), len(body)) + body
    for shard in shards:
        yield b"".join(_BLOCK.pack(block.offset, _digest(block)) for block in shard.blocks)


# Of the index, what is neither its place nor its shards.
_TOLD = (
    "fingerprint",
    "tokenizer",
    "vocabulary_sha256",
    "end_of_text",
    "block_tokens",
    "validation_rule",
    "counts",
    "overlap",
    "config",
    "config_sha256",
)


def _digest(block: Block) -> int:
    found = int(block.digest, 16)
    if f"{found:016x}" != block.digest:
        raise ValueError(f"digest {block.digest!r}")
    return found


def _head(file: _File, path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Return the table's facts and the records of its shards; raise ValueError if it is not whole."""
    status = os.fstat(file.descriptor)
    if status.st_uid not in {os.geteuid(), path.stat().st_uid}:
        raise ValueError("somebody else's")
    preface = read_exactly(file.descriptor, _PREFACE.size, 0)
    if len(preface) < _PREFACE.size:
        raise ValueError("cut off")
    magic, digest, length, total = _PREFACE.unpack(preface)
    if magic != _MAGIC or not 0 <= length <= total <= _MOST_HEAD_BYTES:
        raise ValueError("no table")
    body = bytes(read_exactly(file.descriptor, total, _PREFACE.size))
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("damaged")
    records = np.frombuffer(body, _SHARD, offset=length)
    if status.st_size != _PREFACE.size + total + int(records["blocks"].sum()) * _BLOCK.size:
        raise ValueError("cut off")
    return json.loads(body[:length]), records


def _index(file: _File, head: Mapping[str, Any], records: np.ndarray, location: str) -> Index:
    splits, shard = {}, 0
    begin = os.fstat(file.descriptor).st_size - int(records["blocks"].sum()) * _BLOCK.size
    for name, (tokens, documents, count) in head["splits"].items():
        part = records[shard : shard + count]
        table = ShardTable(file, part, block_tokens=head["block_tokens"], begin=begin)
        splits[name] = _KnownSplit(tokens, documents, table)
        shard += count
        begin += int(part["blocks"].sum()) * _BLOCK.size
    return Index(location=location, splits=splits, **{name: head[name] for name in _TOLD})


def _version(path: Path) -> _Version:
    status = path.stat()
    return _Version(status.st_size, status.st_mtime_ns)


def _fingerprint(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
