"""The shard format as a reader meets it: one block by its number.

`docs/shard_format.md` describes it to the byte. Nothing here parses a tar: where a block lies follows from
its number, and what it hashes to is in a table in the shard, for which the index vouches; so a reader
trusts no header that it meets in a file.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from conf.exits import CorruptError, DatasetError
from data_prep.packing import DTYPE, LARGEST_BLOCK, MOST_BLOCKS
from data_prep.publish import read_exactly

FORMAT = 2
# A block's payload follows one tar header and the 128 bytes of NumPy's (version 1.0, one dimension).
TAR_HEADER = 512
NUMPY_HEADER = 128
DIGEST = np.dtype("<u8")

_HEADERS = TAR_HEADER + NUMPY_HEADER
_SHARD_NAME = re.compile(r"(train|validation)-[0-9]{5,8}\.tar")


class Block(NamedTuple):
    """Where a block lies in its shard."""

    offset: int  # of the first payload byte, in the shard file
    tokens: int  # payload tokens; one overlap token follows them


@dataclass(frozen=True)
class Shard:
    """One tar file: blocks of `block_tokens` tokens, of which the last may be shorter, and their digests."""

    name: str
    bytes: int
    sha256: str
    tokens: int
    documents: int
    digests: str  # of the table of its blocks' digests; see `digest_of_table`
    block_tokens: int

    def __post_init__(self):
        if not _SHARD_NAME.fullmatch(self.name):
            raise ValueError(f"shard name {self.name!r}")
        if self.tokens < 0 or not 1 <= self.block_tokens <= LARGEST_BLOCK:
            raise ValueError(f"{self.name}: {self.tokens} tokens in blocks of {self.block_tokens}")
        if self.block_count > MOST_BLOCKS:
            raise ValueError(f"{self.name}: {self.block_count} blocks; a shard has at most {MOST_BLOCKS}")
        end = self.table + self.block_count * DIGEST.itemsize
        if end > self.bytes:
            raise ValueError(f"{self.name}: its digests end at {end}, beyond the file's {self.bytes} bytes")

    @property
    def block_count(self) -> int:
        """Return how many blocks there are."""
        return -(-self.tokens // self.block_tokens)

    def block(self, number: int) -> Block:
        """Return where a block lies; raise IndexError if there is none of the number."""
        before = number * self.block_tokens
        if not 0 <= before < self.tokens:
            raise IndexError(f"{self.name} has no block {number}")
        offset = number * _member_bytes((self.block_tokens + 1) * DTYPE.itemsize) + _HEADERS
        return Block(offset, min(self.block_tokens, self.tokens - before))

    @property
    def table(self) -> int:
        """Return the offset of the table of digests, 8 bytes for each block."""
        if not self.tokens:
            return TAR_HEADER
        offset, tokens = self.block(self.block_count - 1)
        return offset - _HEADERS + _member_bytes((tokens + 1) * DTYPE.itemsize) + TAR_HEADER


def read_block(directory: Path, shard: Shard, number: int) -> np.ndarray:
    """Return a block and its overlap token: uint16, (tokens + 1,), checked against its digest.

    Raises as `read_block_into` does.
    """
    return _block(directory, shard, number, int(read_digests(directory, shard)[number]))


def read_blocks(directory: Path, shard: Shard) -> Iterator[np.ndarray]:
    """Yield every block of a shard as `read_block` returns it; the digests are read once."""
    for number, digest in enumerate(read_digests(directory, shard).tolist()):
        yield _block(directory, shard, number, digest)


def read_block_into(directory: Path, shard: Shard, number: int, digest: int, into: np.ndarray) -> None:
    """Write a block and its overlap token to `into`, uint16 (tokens + 1,), and check it.

    Raises DatasetError if the shard's file is missing or may not be read, and CorruptError, naming shard,
    member and offset, if its bytes are not those that the digest was taken of.
    """
    path, offset = f"{directory}/{shard.name}", shard.block(number).offset
    content, done = memoryview(into.data).cast("B"), 0
    with _opened(path) as (descriptor, size):
        while done < len(content) and (count := os.preadv(descriptor, [content[done:]], offset + done)):
            done += count
    check_block(content[:done], shard, number, digest, path, size=size)


def read_digests(directory: Path, shard: Shard) -> np.ndarray:
    """Return the digest of each block of a shard: uint64, (blocks,), checked against the index.

    Raises DatasetError as `read_block_into` does, and CorruptError, naming shard and offset.
    """
    path = f"{directory}/{shard.name}"
    with _opened(path) as (descriptor, size):
        content = bytes(read_exactly(descriptor, shard.block_count * DIGEST.itemsize, shard.table))
    return check_digests(content, shard, path, size=size)


def check_block(
    content: bytes | memoryview, shard: Shard, number: int, digest: int, path: str, *, size: int | None = None
) -> None:
    """Raise CorruptError, naming shard, member and offset, unless `content` is what the digest says.

    `size` is that of the file that the shard was read from, if it is known.
    """
    if block_digest(content) != digest:
        what, cut = f"member {member_name(number)}", _cut(shard, size)
        raise CorruptError(_differs(path, what, shard.block(number).offset, cut))


def check_digests(
    content: bytes | memoryview, shard: Shard, path: str, *, size: int | None = None
) -> np.ndarray:
    """Return the digests of a shard's blocks, uint64 (blocks,), from its table.

    Raises CorruptError as `check_block` does.
    """
    if digest_of_table(content) != shard.digests:
        raise CorruptError(_differs(path, "its table of digests", shard.table, _cut(shard, size)))
    return np.frombuffer(content, DIGEST)


def block_digest(content: bytes | bytearray | memoryview) -> int:
    """Return the XXH3 of a block's bytes, overlap token included: 64 bits.

    It is made against accident, and costs a fortieth of a SHA-256, which each reading rank would pay for
    every token. What vouches against intent is the SHA-256 of the shard, which `data_prep.verify` takes.
    """
    return xxh3_64_intdigest(content)


def digest_of_table(content: bytes | memoryview) -> str:
    """Return the digest of a shard's table of digests, its bytes: 16 hexadecimal digits of XXH3."""
    return xxh3_64_hexdigest(content)


def member_name(number: int) -> str:
    """Return the name of a block's member in the tar."""
    return f"{number:09d}.npy"


def _member_bytes(payload: int) -> int:
    """Return the bytes of a member whose array takes so many: headers, payload, zeros to a whole record."""
    return TAR_HEADER + -(-(NUMPY_HEADER + payload) // TAR_HEADER) * TAR_HEADER


def _block(directory: Path, shard: Shard, number: int, digest: int) -> np.ndarray:
    tokens = np.empty(shard.block(number).tokens + 1, DTYPE)
    read_block_into(directory, shard, number, digest, tokens)
    return tokens


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    """Yield a shard's file, open to be read, and its size."""
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
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def _differs(path: str, what: str, offset: int, cut: str) -> str:
    return f"{path}: {what} at offset {offset} differs from the index{cut}; copy the shard again"


def _cut(shard: Shard, size: int | None) -> str:
    return f" (the file has {size} of {shard.bytes} bytes)" if size not in {None, shard.bytes} else ""
