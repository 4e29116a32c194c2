"""How files are cut and put together into units, each the work of one process for a few seconds.

JSON lines are cut by bytes and Parquet by row groups; what is compressed as a whole stays whole.
"""

from collections.abc import Iterable

from data_prep.documents import parquet_groups
from data_prep.sources import CorpusConfig, Input
from data_prep.streams import compression_of

# Text compressed by gzip, zstd, xz or bz2 is 2.5 to 4 times as long when unpacked.
_PACKED_RATIO = 3
# Units small enough to share a small corpus among many tasks, large enough that a unit's files do not count.
_UNITS_WANTED = 64
_SMALLEST_UNIT = 1 << 20
_LARGEST_UNIT = 1 << 25

SizedPiece = tuple[int, int, int, int]  # input, start, stop, bytes of text


def text_of_a_unit(total_bytes: int) -> int:
    """Return how much text a unit should hold, of a corpus of so many bytes."""
    return min(max(total_bytes // _UNITS_WANTED, _SMALLEST_UNIT), _LARGEST_UNIT)


def pieces_of(known: Input, corpus: CorpusConfig, unit_bytes: int) -> list[tuple[int, int, int]]:
    """Return the parts of one file, of about `unit_bytes` of text each: (start, stop, bytes of text)."""
    packed = compression_of(known.path) is not None
    if corpus.kind == "parquet":
        groups = parquet_groups(known.path, corpus.text_key)
        if packed or corpus.document_start is not None:  # unpacked, or joined, as a whole
            return [(0, len(groups), sum(groups))]
        return [(group, group + 1, size) for group, size in enumerate(groups)]
    if corpus.kind == "jsonl" and not packed:
        starts = range(0, known.bytes, unit_bytes)
        stops = [min(start + unit_bytes, known.bytes) for start in starts]
        return [(start, stop, stop - start) for start, stop in zip(starts, stops, strict=True)]
    return [(0, known.bytes, known.bytes * (_PACKED_RATIO if packed else 1))]


def expected_text_bytes(inputs: Iterable[Input], corpus: CorpusConfig) -> int:
    """Return about how much text some files hold, from their sizes alone; nothing is opened."""
    packed = corpus.kind == "parquet"
    return sum(
        known.bytes * (_PACKED_RATIO if packed or compression_of(known.path) else 1) for known in inputs
    )


def grouped(pieces: Iterable[SizedPiece], unit_bytes: int) -> list[list[SizedPiece]]:
    """Put pieces together, in order, into units of about `unit_bytes`."""
    units: list[list[SizedPiece]] = []
    room = 0
    for piece in pieces:
        size = piece[-1]
        if not units or size > room:
            units.append([])
            room = unit_bytes
        units[-1].append(piece)
        room -= size
    return units
