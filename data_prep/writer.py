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
from data_prep.shards import FORMAT, NUMPY_HEADER, TAR_HEADER, Block, Shard, block_digest, member_name

# webdataset passes over members whose folder is named `__…__`.
METADATA = "__meta__/shard.json"
# A tar ends in two empty records and is filled up to 20 of them, as GNU tar and tarfile do.
_END = 2 * tarfile.BLOCKSIZE


def write_shard(path: Path, blocks: Iterable[np.ndarray], *, documents: int, scratch: Path) -> Shard:
    """Write the blocks, each with its overlap token, as the shard `path`; return its index entry.

    The shard appears whole or not at all; `scratch` is a folder on the same file system.
    """
    entries: list[Block] = []
    with replacing(path, scratch=scratch) as file:
        tar = _HashedFile(file)
        for number, block in enumerate(blocks):
            content = np.ascontiguousarray(block, DTYPE).tobytes()
            entries.append(Block(tar.size + TAR_HEADER + NUMPY_HEADER, len(block) - 1, block_digest(content)))
            tar.write(member(member_name(number), numpy_header(len(block)) + content))
        tokens = sum(entry.tokens for entry in entries)
        tar.write(member(METADATA, metadata(documents, entries)))
        tar.write(_end(tar.size))
    return Shard(path.name, tar.size, tar.digest.hexdigest(), tokens, documents, tuple(entries))


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


def metadata(documents: int, blocks: Iterable[Block]) -> bytes:
    """Return the content of the metadata member: what the index says of the blocks."""
    entries = [[block.offset, block.tokens, block.digest] for block in blocks]
    record = {"format": FORMAT, "dtype": DTYPE.name, "documents": documents, "blocks": entries}
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def frames(shard: Shard) -> Iterator[bytes]:
    """Yield what the file of `shard` holds before each block's payload, and last what follows them all."""
    end = 0
    for number, block in enumerate(shard.blocks):
        length = block.tokens + 1
        size = NUMPY_HEADER + length * DTYPE.itemsize
        yield bytes(-end % tarfile.BLOCKSIZE) + header(member_name(number), size) + numpy_header(length)
        end = block.offset + length * DTYPE.itemsize
    last = bytes(-end % tarfile.BLOCKSIZE) + member(METADATA, metadata(shard.documents, shard.blocks))
    yield last + _end(end + len(last))


def _end(size: int) -> bytes:
    """Return what closes a tar whose members end at `size`."""
    return bytes(_END + -(size + _END) % tarfile.RECORDSIZE)


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
