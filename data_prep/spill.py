"""The spill file: the tokenized documents of one work unit, sorted by bucket.

    table      one SECTION per bucket
    section    for each bucket: one RECORD per document, then their tokens in the same order

Each section carries a digest that binds it to plan, unit and bucket, so a reader of one bucket checks
exactly what it reads. The unit is finished when its marker, which holds the table's SHA-256, is there.
"""

import hashlib
import itertools
import json
import os
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import numpy as np

from conf.exits import CorruptError
from data_prep.counts import Counts, counts_of
from data_prep.packing import DTYPE
from data_prep.publish import publish, read_exactly, replacing
from data_prep.routing import TextHash

SECTION = np.dtype([("offset", "<u8"), ("documents", "<u8"), ("tokens", "<u8"), ("digest", "S32")])
RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("tokens", "<u8"), ("text_bytes", "<u8")])

# What is held in memory of a unit before it goes to disk: a packed file of any size is one unit.
_HELD_BYTES = 1 << 26
_STRETCH_BYTES = 1 << 20
_RECORDS, _TOKENS = 0, 1  # the two parts of a section


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
    """The documents of a unit until they are written: in memory, and beyond `_HELD_BYTES` on disk."""

    def __init__(self, buckets: int, folder: Path):
        self._buckets, self._folder = buckets, folder
        self._file: BinaryIO | None = None  # without a name: nothing of it is left when the process dies
        self._bounds: list[np.ndarray] = []  # for each flush: where in the file each bucket's two parts begin
        self._hold_nothing()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, bucket: int, text: TextHash, text_bytes: int, tokens: np.ndarray) -> None:
        """Put one document into its bucket."""
        self._records[bucket].extend((text.high, text.low, len(tokens), text_bytes))
        self._tokens[bucket] += tokens.astype(DTYPE, copy=False).data.cast("B")
        self._held += RECORD.itemsize + tokens.nbytes
        if self._held > _HELD_BYTES:
            self._flush()

    def write(self, unit: int, *, plan: str, counts: Counts, overlap: str = "") -> Marker:
        """Write the spill file, then its marker; return the marker."""
        folder, table = self._folder, np.zeros(self._buckets, SECTION)
        offset = table.nbytes
        with replacing(spill_path(folder, unit)) as file:
            file.seek(offset)
            for bucket in range(self._buckets):
                size = [self._part_bytes(bucket, part) for part in (_RECORDS, _TOKENS)]
                documents, tokens = size[_RECORDS] // RECORD.itemsize, size[_TOKENS] // DTYPE.itemsize
                digest = _digest(f"{plan} {unit} {bucket} {offset} {documents} {tokens}")
                for content in itertools.chain(self._part(bucket, _RECORDS), self._part(bucket, _TOKENS)):
                    digest.update(content)
                    file.write(content)
                table[bucket] = (offset, documents, tokens, _digits(digest))
                offset += sum(size)
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

    def _hold_nothing(self) -> None:
        # The numbers of each bucket's RECORDs, and its tokens; flat, as millions of objects would keep the
        # collector busy.
        self._records = [array("Q") for _ in range(self._buckets)]
        self._tokens = [bytearray() for _ in range(self._buckets)]
        self._held = 0

    def _flush(self) -> None:
        """Move what is held behind what lies in the file."""
        if self._file is None:
            self._file = cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115  __exit__ closes it
        bounds = [self._file.tell()]
        for records, tokens in zip(self._records, self._tokens, strict=True):
            bounds.append(bounds[-1] + self._file.write(_little_endian(records)))
            bounds.append(bounds[-1] + self._file.write(tokens))
        self._bounds.append(np.array(bounds, np.int64))
        self._file.flush()
        self._hold_nothing()

    def _part_bytes(self, bucket: int, part: int) -> int:
        place = 2 * bucket + part
        held = (self._records[bucket], self._tokens[bucket])[part]
        return len(memoryview(held).cast("B")) + sum(
            int(bounds[place + 1] - bounds[place]) for bounds in self._bounds
        )

    def _part(self, bucket: int, part: int) -> Iterator[bytes | bytearray | memoryview]:
        """Yield a bucket's records or its tokens, in the order in which they came."""
        for bounds in self._bounds:
            assert self._file is not None
            start, stop = bounds[2 * bucket + part : 2 * bucket + part + 2].tolist()
            yield from _stretches(self._file.fileno(), start, stop)
        yield _little_endian(self._records[bucket]) if part == _RECORDS else self._tokens[bucket]


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
    table = _table(path, buckets)
    if hashlib.sha256(table.tobytes()).hexdigest() != marker.sha256:
        return False
    with path.open("rb", buffering=0) as file:
        for bucket, (offset, documents, tokens, expected) in enumerate(table.tolist()):
            digest = _digest(f"{marker.plan} {unit} {bucket} {offset} {documents} {tokens}")
            for content in _stretches(file.fileno(), offset, offset + _length(documents, tokens)):
                digest.update(content)
            if _digits(digest) != expected:
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
    found = _digest(f"{plan} {unit} {bucket} {offset} {documents} {tokens}")
    found.update(content)
    if _digits(found) != digest:
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


def _stretches(descriptor: int, start: int, stop: int) -> Iterator[bytearray]:
    """Yield the bytes of a file from `start` to `stop`, a bounded part at a time; fewer if it is shorter."""
    for offset in range(start, stop, _STRETCH_BYTES):
        yield read_exactly(descriptor, min(_STRETCH_BYTES, stop - offset), offset)


def _little_endian(records: array) -> memoryview:
    return np.array(records, "<u8").data.cast("B")


def _digest(place: str) -> "hashlib._Hash":
    """Return the hash that binds a section's bytes to its place, before it has seen them."""
    return hashlib.sha256(f"{place}\n".encode())


def _digits(digest: "hashlib._Hash") -> bytes:
    return digest.hexdigest()[:32].encode()


def _damaged(path: Path) -> CorruptError:
    return CorruptError(f"{path} is damaged; run data_prep.prepare again, it makes damaged units anew")
