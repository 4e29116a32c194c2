"""What a document is: a text file, a line of JSONL, an item of a JSON array, or a row of Parquet."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from conf.exits import DatasetError
from data_prep.counts import Drop
from data_prep.sources import CorpusConfig
from data_prep.streams import compression_of, open_content, open_seekable, open_stored

# Rows that a Parquet reader decodes at a time: few enough to hold about so much text.
_MOST_BATCH_ROWS = 1024
_BATCH_BYTES = 1 << 22
# Of a row group, which may be hundreds of MB, so much is read at a time.
_PARQUET_BUFFER_BYTES = 1 << 20
_SKIP_BYTES = 1 << 20
_LARGEST_JSON = 1 << 28  # a JSON array is held in memory whole
# A line is held whole, too; one of plain letters with one emoji takes four bytes a letter once decoded.
_LONGEST_LINE = 1 << 27
# JSON spells a byte in six at the most, and what stands beside the text may be long.
_SPELLED, _ROOM_BESIDE = 6, 1 << 25
_TEXT_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
)


@dataclass(frozen=True)
class Piece:
    """A part of one file: a byte range of text and JSONL, a range of row groups of Parquet."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Document:
    """One document's text, as characters and as UTF-8."""

    text: str
    utf8: bytes


def read_documents(piece: Piece, corpus: CorpusConfig, limit: int) -> Iterator[Document | Drop]:
    """Yield each document of the piece, or why the reader could not keep it.

    A text of more than `limit` bytes may be passed over before it is decoded. Raises DatasetError, naming
    file and place, for a document that breaks its format.
    """
    if corpus.kind == "text":
        yield _text_file(piece, corpus, limit)
    elif corpus.kind == "jsonl":
        yield from _json_lines(piece, corpus, limit)
    elif corpus.kind == "json":
        yield from _json_array(piece, corpus, limit)
    elif corpus.document_start is None:
        for value in _parquet_values(piece, corpus):
            yield Drop.EMPTY if value is None else _decoded(value, corpus.errors, piece.path)
    else:
        for content in _joined(_parquet_values(piece, corpus), re.compile(corpus.document_start)):
            yield _decoded(content, corpus.errors, piece.path)


def parquet_groups(path: str, text_key: str) -> list[int]:
    """Return the bytes of text in each row group of a Parquet file.

    Raises DatasetError if the file is not Parquet or lacks the column, naming those there are.
    """
    try:
        with open_seekable(path) as stored, pq.ParquetFile(stored) as file:
            metadata = file.metadata
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} is not a readable Parquet file: {_one_line(error)}") from error
    schema = metadata.schema.to_arrow_schema()
    if text_key not in schema.names:
        raise DatasetError(
            f"{path} has no column '{text_key}'; set corpus.text_key to one of: {', '.join(schema.names)}"
        )
    if not _is_text(schema.field(text_key).type):
        raise DatasetError(f"{path}: column '{text_key}' holds {schema.field(text_key).type}, not text")
    return [_text_bytes(metadata, group, text_key) for group in range(metadata.num_row_groups)]


def _text_bytes(metadata: pq.FileMetaData, group: int, text_key: str) -> int:
    """Return the bytes of text in a row group, as its writer states them."""
    columns = [metadata.row_group(group).column(n) for n in range(metadata.num_columns)]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == text_key)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind
    return any(test(kind) for test in _TEXT_TYPES)


def _text_file(piece: Piece, corpus: CorpusConfig, limit: int) -> Document | Drop:
    with open_content(piece.path) as file:
        content = file.read(limit + 1)
    return Drop.TOO_LONG if len(content) > limit else _decoded(content, corpus.errors, piece.path)


def _json_lines(piece: Piece, corpus: CorpusConfig, limit: int) -> Iterator[Document | Drop]:
    """Yield the documents of the lines that begin in the piece's byte range; a packed file is one piece."""
    start = piece.start
    # Whoever reads the beginning looks whether the content is what the name says.
    with open_stored(piece.path) if start else open_content(piece.path) as file:
        if start:
            file.seek(start - 1)
            start += _skip_line(file) - 1
        stop = piece.stop if compression_of(piece.path) is None else sys.maxsize
        longest = max(limit, min(_LONGEST_LINE, max(_SPELLED * limit, _ROOM_BESIDE)))
        for line_start, line in _lines(file, start, stop, longest):
            if len(line) > longest and not line.endswith(b"\n"):
                yield Drop.LINE_TOO_LONG
            elif line.strip():
                yield _json_text(line, corpus, piece.path, line_start, limit)


def _lines(file: BinaryIO, start: int, stop: int, longest: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that begin in [start, stop), each with its place; one over `longest` is cut short."""
    while start < stop and (line := file.readline(longest + 1)):
        yield start, line
        start += len(line)
        if not line.endswith(b"\n"):
            start += _skip_line(file)


def _skip_line(file: BinaryIO) -> int:
    """Read to the end of the line; return how many bytes that were."""
    skipped = 0
    while part := file.readline(_SKIP_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _json_text(line: bytes, corpus: CorpusConfig, path: str, start: int, limit: int) -> Document | Drop:
    """Return the text of one JSON line that begins at byte `start` of the file."""
    try:
        return _item_text(orjson.loads(line), corpus, lambda: _place(path, start), limit)
    except orjson.JSONDecodeError:
        pass  # or half of a surrogate pair, or bytes that are not UTF-8: json takes both, and says more
    content = _decoded(line, corpus.errors, path, start)
    if isinstance(content, Drop):
        return content
    try:
        item = json.loads(content.text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{_place(path, start)} is not a line of JSON: {error}") from None
    return _item_text(item, corpus, lambda: _place(path, start), limit)


def _json_array(piece: Piece, corpus: CorpusConfig, limit: int) -> Iterator[Document | Drop]:
    """Yield the documents of a JSON file: an array of objects, or one object."""
    with open_content(piece.path) as file:
        content = file.read(_LARGEST_JSON + 1)
    if len(content) > _LARGEST_JSON:
        raise DatasetError(
            f"{piece.path} has more than {_LARGEST_JSON >> 20} MiB of JSON; convert it to JSONL"
        )
    whole = _decoded(content, corpus.errors, piece.path)
    if isinstance(whole, Drop):
        yield whole
        return
    try:
        items = json.loads(whole.text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{piece.path} is not JSON: {error}; is each line a document? corpus=jsonl"
        ) from None
    for number, item in enumerate(items if isinstance(items, list) else [items]):
        yield _item_text(item, corpus, lambda number=number: f"{piece.path}: item {number}", limit)


def _item_text(item: object, corpus: CorpusConfig, place: Callable[[], str], limit: int) -> Document | Drop:
    """Return the text of one JSON object; `place` says where it is, for an error's text."""
    if not isinstance(item, dict) or corpus.text_key not in item:
        raise DatasetError(f"{place()} has no key '{corpus.text_key}'; set corpus.text_key")
    text = item[corpus.text_key]
    if text is None:
        return Drop.EMPTY
    if not isinstance(text, str):
        raise DatasetError(f"{place()}: the value of '{corpus.text_key}' is not a string")
    if len(text) > limit:  # characters, so bytes all the more; what is not encoded costs no memory
        return Drop.TOO_LONG
    try:
        return Document(text, text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write and UTF-8 cannot
        return _decoded(text.encode("utf-8", "surrogatepass"), corpus.errors, place())


def _place(path: str, start: int) -> str:
    """Return file:line of the line that begins at byte `start`; counted only for an error's text."""
    with open_content(path) as file:
        lines, left = 1, start
        while left and (part := file.read(min(left, _SKIP_BYTES))):
            lines += part.count(b"\n")
            left -= len(part)
    return f"{path}:{lines}"


def _parquet_values(piece: Piece, corpus: CorpusConfig) -> Iterator[bytes | None]:
    """Yield the texts of the rows of the row groups [start, stop)."""
    groups = list(range(piece.start, piece.stop))
    try:
        with (
            open_seekable(piece.path) as stored,
            pq.ParquetFile(
                stored,
                buffer_size=_PARQUET_BUFFER_BYTES,
                pre_buffer=False,  # it would hold the column of a whole row group, however large
                page_checksum_verification=True,
            ) as file,
        ):
            rows = _batch_rows(file.metadata, groups, corpus.text_key)
            for batch in file.iter_batches(rows, row_groups=groups, columns=[corpus.text_key]):
                yield from batch.column(0).cast(pa.large_binary()).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{piece.path} cannot be read as Parquet: {_one_line(error)}") from error


def _batch_rows(metadata: pq.FileMetaData, groups: list[int], text_key: str) -> int:
    """Return how many rows of some row groups hold about `_BATCH_BYTES` of text."""
    rows = sum(metadata.row_group(group).num_rows for group in groups)
    size = sum(_text_bytes(metadata, group, text_key) for group in groups)
    return min(max(1, _BATCH_BYTES * rows // max(1, size)), _MOST_BATCH_ROWS)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _joined(rows: Iterable[bytes | None], start: re.Pattern[str]) -> Iterator[bytes]:
    """Yield documents made of a row that matches `start` and the rows up to the next such row.

    They are decoded as a whole, so that a row which is no UTF-8 costs its document, and that is counted.
    """
    parts: list[bytes] = []
    for row in rows:
        content = row or b""
        if start.match(content.decode("utf-8", "replace")) and any(parts):
            yield b"".join(parts)
            parts = []
        parts.append(content)
    if any(parts):
        yield b"".join(parts)


def _decoded(content: bytes, errors: str, path: str, start: int = 0) -> Document | Drop:
    """Return bytes as a document, by the corpus's rule for those that are not UTF-8."""
    try:
        return Document(content.decode(), content)
    except UnicodeDecodeError as error:
        if errors == "drop":
            return Drop.UNDECODABLE
        if errors == "replace":
            text = content.decode("utf-8", "replace")
            return Document(text, text.encode())
        raise DatasetError(
            f"{path}: byte {start + error.start} is not UTF-8; "
            "convert the file, or set corpus.errors=replace or drop"
        ) from None
