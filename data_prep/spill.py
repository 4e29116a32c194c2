"""The spill file: the tokenized documents of one work unit, sorted by bucket.

    table      one SECTION per bucket
    section    for each bucket: one RECORD per document, then their tokens in the same order

Each section carries a digest that binds it to plan, unit and bucket, so a reader of one bucket checks
exactly what it reads. The unit is finished when its marker, which holds the table's SHA-256, is there.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conf.exits import CorruptError
from data_prep.counts import Counts, counts_of
from data_prep.packing import DTYPE
from data_prep.publish import publish, read_exactly, replacing
from data_prep.routing import TextHash

SECTION = np.dtype([("offset", "<u8"), ("documents", "<u8"), ("tokens", "<u8"), ("digest", "S32")])
RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("tokens", "<u8"), ("text_bytes", "<u8")])


@dataclass(frozen=True)
class Marker:
    """What is known of a finished unit."""

    plan: str
    bytes: int
    sha256: str  # of the table, which holds the digest of every section
    counts: Counts
    overlap: str  # contamination.Overlap.record()


@dataclass(frozen=True)
class Section:
    """One unit's documents of one bucket."""

    records: np.ndarray  # RECORD, (documents,)
    tokens: np.ndarray  # uint16, (tokens,): the documents' tokens one after another


class Spill:
    """The documents of a unit, gathered in memory until they are written."""

    def __init__(self, buckets: int):
        # The numbers of each bucket's RECORDs; flat, as millions of tuples would keep the collector busy.
        self._records = [array("Q") for _ in range(buckets)]
        self._tokens: list[list[np.ndarray]] = [[] for _ in range(buckets)]

    def add(self, bucket: int, text: TextHash, text_bytes: int, tokens: np.ndarray) -> None:
        """Put one document into its bucket."""
        self._records[bucket].extend((text.high, text.low, len(tokens), text_bytes))
        self._tokens[bucket].append(tokens)

    def write(self, folder: Path, unit: int, *, plan: str, counts: Counts, overlap: str = "") -> Marker:
        """Write the spill file, then its marker; return the marker."""
        table = np.zeros(len(self._records), SECTION)
        offset = table.nbytes
        with replacing(spill_path(folder, unit)) as file:
            file.seek(offset)
            for bucket, (records, documents) in enumerate(zip(self._records, self._tokens, strict=True)):
                tokens = sum(map(len, documents))
                content = _section_bytes(records, documents)
                digest = _digest(f"{plan} {unit} {bucket} {offset} {len(documents)} {tokens}", content)
                table[bucket] = (offset, len(documents), tokens, digest)
                file.write(content)
                offset += len(content)
            file.seek(0)
            file.write(table.tobytes())
        marker = Marker(plan, offset, hashlib.sha256(table.tobytes()).hexdigest(), counts, overlap)
        record = {
            "plan": plan,
            "bytes": offset,
            "sha256": marker.sha256,
            "counts": counts.record(),
            "overlap": overlap,
        }
        publish(marker_path(folder, unit), json.dumps(record, sort_keys=True).encode())
        return marker


def read_marker(folder: Path, unit: int, plan: str) -> Marker | None:
    """Return the marker of a unit of this plan, or None if the unit is not finished."""
    try:
        raw: Mapping[str, Any] = json.loads(marker_path(folder, unit).read_bytes())
        marker = Marker(raw["plan"], raw["bytes"], raw["sha256"], counts_of(raw["counts"]), raw["overlap"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return marker if marker.plan == plan else None


def is_whole(folder: Path, unit: int, marker: Marker, buckets: int) -> bool:
    """Return whether the spill file still is what its marker says."""
    path = spill_path(folder, unit)
    if not path.exists() or path.stat().st_size != marker.bytes:
        return False
    if hashlib.sha256(_table(path, buckets).tobytes()).hexdigest() != marker.sha256:
        return False
    try:
        for bucket in range(buckets):
            read_section(folder, unit, bucket, plan=marker.plan)
    except CorruptError:
        return False
    return True


def read_section(folder: Path, unit: int, bucket: int, *, plan: str) -> Section:
    """Return one unit's documents of `bucket`.

    Raises CorruptError, naming the file, if its bytes are not those that were written.
    """
    path = spill_path(folder, unit)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        entry = read_exactly(descriptor, SECTION.itemsize, bucket * SECTION.itemsize)
        if len(entry) < SECTION.itemsize:
            raise _damaged(path)
        offset, documents, tokens, digest = np.frombuffer(entry, SECTION)[0].tolist()
        records_length, length = documents * RECORD.itemsize, _length(documents, tokens)
        if offset + length > size:
            raise _damaged(path)
        content = read_exactly(descriptor, length, offset)
    finally:
        os.close(descriptor)
    if _digest(f"{plan} {unit} {bucket} {offset} {documents} {tokens}", content) != digest:
        raise _damaged(path)
    records = np.frombuffer(content, RECORD, documents)
    return Section(records, np.frombuffer(content, DTYPE, tokens, records_length))


def documents_per_bucket(folder: Path, unit: int, buckets: int) -> np.ndarray:
    """Return how many documents a unit has in each bucket, duplicates included: int64, (buckets,)."""
    table = _table(spill_path(folder, unit), buckets)
    if len(table) != buckets:
        raise _damaged(spill_path(folder, unit))
    return table["documents"].astype(np.int64)


def spill_path(folder: Path, unit: int) -> Path:
    """Return the spill file of a unit."""
    return folder / f"unit-{unit:06d}.spill"


def marker_path(folder: Path, unit: int) -> Path:
    """Return the completion marker of a unit."""
    return folder / f"unit-{unit:06d}.json"


def _table(path: Path, buckets: int) -> np.ndarray:
    """Return the table of a spill file: SECTION, (buckets,), fewer if the file is cut short."""
    with path.open("rb") as file:
        content = file.read(buckets * SECTION.itemsize)
    return np.frombuffer(content, SECTION, len(content) // SECTION.itemsize)


def _length(documents: int, tokens: int) -> int:
    return documents * RECORD.itemsize + tokens * DTYPE.itemsize


def _section_bytes(records: array, documents: list[np.ndarray]) -> bytes:
    numbers = np.array(records, "<u8")
    return b"".join([numbers.data, *(tokens.astype(DTYPE, copy=False).data for tokens in documents)])


def _digest(place: str, content: bytes | bytearray) -> bytes:
    """Return 32 hexadecimal digits that bind a section's bytes to its place."""
    digest = hashlib.sha256(f"{place}\n".encode())
    digest.update(content)
    return digest.hexdigest()[:32].encode()


def _damaged(path: Path) -> CorruptError:
    return CorruptError(f"{path} is damaged; run data_prep.prepare again, it makes damaged units anew")
