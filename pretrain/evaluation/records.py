"""How a benchmark's file is read, in the formats in which benchmarks are published.

JSON lines are one record each. The rows of a Parquet file whose only content is text are the lines of
a document (WikiText on the hub); other rows are records. Anything else is plain text. The file may lie
on this machine or at any URL that data preparation reads, and be compressed.
"""

import json
from collections.abc import Iterable
from typing import Any

from pyarrow import parquet

from conf.exits import DatasetError
from data_prep.streams import compression_of, open_content, open_seekable

Record = dict[str, Any]


def records(path: str, limit: int | None = None) -> list[Record]:
    """Return the records of a file, at most `limit`; a text is one record {"text": …}.

    Raises DatasetError, naming the file, if it is not there, is empty, or a line is no record.
    """
    try:
        found = _records(path)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}; name another file") from error
    if not found:
        raise DatasetError(f"{path} holds no record; name the benchmark's own file")
    return found[:limit]


def field(record: Record, name: str, path: str) -> Any:
    """Return a field of a record of `path`; raise DatasetError if it is not there."""
    if name not in record:
        held = ", ".join(sorted(record)[:8])
        raise DatasetError(
            f"{path}: a record has no '{name}' but {held}; give the file in its published format"
        )
    return record[name]


def _records(path: str) -> list[Record]:
    compression = compression_of(path)
    stem = path.lower() if compression is None else path.lower().rpartition(".")[0]
    if stem.endswith(".parquet"):
        with open_seekable(path) as file:
            rows = parquet.read_table(file).to_pylist()
        if rows and set(rows[0]) == {"text"}:
            return [{"text": "".join(row["text"] for row in rows)}]
        return rows
    with open_content(path) as file:
        content = file.read()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 at byte {error.start}; convert it") from error
    if stem.endswith((".jsonl", ".json")):
        return list(_json_lines(text.split("\n"), path))
    return [{"text": text}] if text else []


def _json_lines(lines: Iterable[str], path: str) -> Iterable[Record]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{path}:{number} is no JSON; one record a line is wanted") from error
        if not isinstance(record, dict):
            raise DatasetError(f"{path}:{number} is no JSON object; one record a line is wanted")
        yield record
