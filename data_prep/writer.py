"""How a shard is laid out as a tar: the only place that writes one.

The bytes are a function of the tokens alone: USTAR, no compression, time 0, owner 0.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_prep.packing import DTYPE
from data_prep.publish import replacing
from data_prep.shards import DIGEST, FORMAT, NUMPY_HEADER, Shard, block_digest, digest_of_table, member_name

# webdataset passes over members whose folder is named `__…__`.
DIGESTS = "__meta__/digests.xxh3"
METADATA = "__meta__/shard.json"
# A tar ends in two empty records and is filled up to 20 of them, as GNU tar and tarfile do.
_END = 2 * tarfile.BLOCKSIZE


def write_shard(
    path: Path, blocks: Iterable[np.ndarray], *, block_tokens: int, documents: int, scratch: Path
) -> Shard:
    """Write the blocks, each with its overlap token, as the shard `path`; return its index entry.

    All but the last hold `block_tokens` tokens. The shard appears whole or not at all; `scratch` is a
    folder on the same file system.
    """
    digests: list[int] = []
    tokens = 0
    with replacing(path, scratch=scratch) as file:
        tar = _HashedFile(file)
        for number, block in enumerate(blocks):
            content = np.ascontiguousarray(block, DTYPE).tobytes()
            digests.append(block_digest(content))
            tokens += len(block) - 1
            tar.write(member(member_name(number), numpy_header(len(block)) + content))
        table = np.array(digests, DIGEST)
        tar.write(_after_blocks(tar.size, table, tokens, block_tokens, documents))
    return Shard(
        name=path.name,
        bytes=tar.size,
        sha256=tar.digest.hexdigest(),
        tokens=tokens,
        documents=documents,
        digests=digest_of_table(table.tobytes()),
        block_tokens=block_tokens,
    )


def member(name: str, content: bytes) -> bytes:
    """Return one member of a tar: its header, its content, and zeros up to a whole record."""
    return header(name, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def header(name: str, size: int) -> bytes:
    """Return the 512-byte USTAR header of a member."""
    info = tarfile.TarInfo(name)  # mode 0644, owner 0, time 0
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


def numpy_header(length: int) -> bytes:
    """Return the header of a `.npy` file that holds `length` uint16 numbers."""
    buffer = io.BytesIO()
    description = {"descr": DTYPE.str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(buffer, description)
    assert buffer.tell() == NUMPY_HEADER
    return buffer.getvalue()


def frames(shard: Shard, digests: np.ndarray) -> Iterator[bytes]:
    """Yield what the file of `shard` holds before each block's payload, and last what follows them all."""
    end = 0
    for number in range(shard.block_count):
        offset, tokens = shard.block(number)
        size = (tokens + 1) * DTYPE.itemsize
        head = header(member_name(number), NUMPY_HEADER + size) + numpy_header(tokens + 1)
        yield bytes(-end % tarfile.BLOCKSIZE) + head
        end = offset + size
    padding = bytes(-end % tarfile.BLOCKSIZE)
    facts = (shard.tokens, shard.block_tokens, shard.documents)
    yield padding + _after_blocks(end + len(padding), digests, *facts)


def _after_blocks(size: int, digests: np.ndarray, tokens: int, block_tokens: int, documents: int) -> bytes:
    """Return what follows the blocks of a tar, which take `size` bytes: digests, metadata, its end."""
    record = {"format": FORMAT, "dtype": DTYPE.name}
    record |= {"tokens": tokens, "block_tokens": block_tokens, "documents": documents}
    metadata = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    content = member(DIGESTS, digests.tobytes())
    content += member(METADATA, metadata)
    return content + bytes(_END + -(size + len(content) + _END) % tarfile.RECORDSIZE)


class _HashedFile:
    """A file that knows the size and the SHA-256 of what was written to it."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self.digest.update(content)
        self.size += len(content)
