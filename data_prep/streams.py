"""The bytes of one file: local or remote, plain or compressed, whole or an error.

Libraries differ in what they let pass: a gzip file of no bytes, garbage behind a bz2 stream, a zstd frame
cut short. Here each of them is refused, and what comes out is bounded by what went in.
"""

import bz2
import contextlib
import io
import lzma
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, cast
from urllib.parse import urlsplit

import pyarrow as pa

from conf.exits import DatasetError
from data_prep.remote import is_remote, open_remote

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".xz": "xz", ".bz2": "bz2"}
# How files of each begin (RFC 1952, 8878; the formats' own descriptions): three of them are no UTF-8 either.
_MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    **{b"BZh%d1AY&SY" % level: "bz2" for level in range(1, 10)},
}
_LONGEST_MAGIC = max(map(len, _MAGIC))
# No text is packed tighter; deflate itself ends at 1032. A bomb is refused before it costs time.
_LARGEST_RATIO = 1000
_READ_BYTES = 1 << 18


def compression_of(path: str) -> str | None:
    """Return how a file is compressed, by the end of its name, or None."""
    return COMPRESSIONS.get(Path(name_of(path)).suffix.lower())


def name_of(path: str) -> str:
    """Return a path without what follows the name of the file in a web address: "?signature=…"."""
    return urlsplit(path).path if path.startswith(("http://", "https://")) else path


def open_stored(path: str) -> BinaryIO:
    """Return a file's bytes as they are stored, seekable; raise DatasetError for one that may not be read."""
    if is_remote(path):
        return open_remote(path)
    try:
        return Path(path).open("rb", buffering=_READ_BYTES)
    except PermissionError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; mend that, or leave it out") from None


def open_content(path: str) -> BinaryIO:
    """Return a file's bytes, decompressed if its name says that it is compressed.

    Raises DatasetError, naming the file, if only its content says so. Reading does if it is damaged,
    truncated or a bomb.
    """
    compression = compression_of(path)
    if compression is None:
        return _uncompressed(path)
    return cast(BinaryIO, io.BufferedReader(_Decompressed(path, compression), _READ_BYTES))


def _uncompressed(path: str) -> BinaryIO:
    with contextlib.ExitStack() as until_looked_at:
        file = until_looked_at.enter_context(open_stored(path))
        first = cast(io.BufferedReader, file).peek(_LONGEST_MAGIC)[:_LONGEST_MAGIC]
        for magic, compression in _MAGIC.items():
            if first.startswith(magic):
                endings = " or ".join(end for end, known in COMPRESSIONS.items() if known == compression)
                raise DatasetError(
                    f"{path} is a {compression} file, though its name does not end in {endings}; rename it"
                )
        until_looked_at.pop_all()  # the caller closes it
    return file


def open_seekable(path: str) -> BinaryIO:
    """Return a file's bytes, decompressed and seekable: a compressed one is unpacked to a temporary file."""
    if compression_of(path) is None:
        return open_stored(path)
    with contextlib.ExitStack() as until_whole:
        unpacked = until_whole.enter_context(tempfile.TemporaryFile())
        with open_content(path) as content:
            while part := content.read(_READ_BYTES):
                unpacked.write(part)
        unpacked.seek(0)
        until_whole.pop_all()  # the caller closes it
    return cast(BinaryIO, unpacked)


class _Decompressor(Protocol):
    """What bz2 and lzma offer for one compressed stream."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib behind the interface of bz2 and lzma; it checks CRC and length at the end of a member."""

    def __init__(self):
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


_STREAMS: dict[str, Callable[[], _Decompressor]] = {
    "gzip": _Gzip,
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ),
}


class _Decompressed(io.RawIOBase):
    """The content of a compressed file, one or more streams behind one another."""

    def __init__(self, path: str, compression: str):
        self._path, self._compression = path, compression
        self._stored = open_stored(path)
        self._size = self._stored.seek(0, io.SEEK_END)
        self._stored.seek(0)
        self._produced = 0
        if self._size == 0:
            self._stored.close()
            raise self._damaged("it has no bytes")
        if compression == "zstd":
            self._arrow = pa.CompressedInputStream(pa.PythonFile(self._stored, "r"), "zstd")
        else:
            self._stream = _STREAMS[compression]()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            part = self._arrow.read(len(buffer)) if self._compression == "zstd" else self._part(len(buffer))
        except (zlib.error, lzma.LZMAError, EOFError, OSError, pa.ArrowException) as error:
            raise self._damaged(" ".join(str(error).split())) from None  # Arrow's end in a new line
        self._produced += len(part)
        if self._produced > _LARGEST_RATIO * self._size + _READ_BYTES:
            raise self._damaged(f"it expands more than {_LARGEST_RATIO}-fold")
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._stored.close()
        super().close()

    def _part(self, length: int) -> bytes:
        """Return some of the content: 1 to `length` bytes, none at the end of the last stream."""
        while True:
            if self._stream.eof:
                rest = self._following()
                if not rest:
                    return b""
                self._stream = _STREAMS[self._compression]()  # whatever follows must be a stream, too
            elif self._stream.needs_input:
                rest = self._stored.read(_READ_BYTES)
            else:
                rest = b""
            at_end = not rest and self._stream.needs_input
            part = self._stream.decompress(rest, length)
            if part:
                return part
            if at_end and not self._stream.eof:
                raise EOFError("it ends in the middle")

    def _following(self) -> bytes:
        """Return what follows a stream, without the zeros that gzip and xz allow there."""
        rest = self._stream.unused_data or self._stored.read(_READ_BYTES)
        while rest and self._compression != "bz2" and not (rest := rest.lstrip(b"\0")):
            rest = self._stored.read(_READ_BYTES)
        return rest

    def _damaged(self, why: str) -> DatasetError:
        return DatasetError(f"{self._path} is not a whole {self._compression} file: {why}; copy it again")
