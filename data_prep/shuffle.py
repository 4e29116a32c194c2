"""Map and reduce: a unit's documents into a spill file, a bucket's documents into a shard."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.checksums import check_hash
from data_prep.contamination import Overlap, load_evaluation
from data_prep.counts import Counts, Drop
from data_prep.documents import Document, read_documents
from data_prep.fast_tokenizer import Encoder
from data_prep.filters import reason_to_drop
from data_prep.index import shard_of, shard_record
from data_prep.lock import locked
from data_prep.packing import Stream, with_ends
from data_prep.plan import Plan, spill_folder
from data_prep.publish import publish, sha256_of_file
from data_prep.routing import hash_of, shuffled
from data_prep.shards import Shard
from data_prep.sources import check_unchanged
from data_prep.spill import Marker, Section, Spill, is_whole, read_marker, read_section
from data_prep.tokenizer import END_OF_TEXT
from data_prep.writer import write_shard

# If one split would get no document, this part of the last bucket's tokens becomes validation.
_TAIL_PART = 10


@dataclass(frozen=True)
class BucketResult:
    """What became of one bucket: its shards by split, and its share of the totals."""

    plan: str
    shards: tuple[tuple[str, Shard], ...]
    counts: Counts  # of the documents that reached the bucket: kept, or dropped as duplicates


# ----- map


def unit_marker(plan: Plan, output: Path, unit: int) -> Marker | None:
    """Return the marker of a finished unit whose spill file is whole, else None."""
    folder = spill_folder(output)
    marker = read_marker(folder, unit, plan.digest)
    return marker if marker and is_whole(folder, unit, marker, plan.routing.buckets) else None


def map_unit(plan: Plan, output: Path, unit: int, encoder: Encoder) -> Marker:
    """Tokenize a unit's documents into its spill file, unless that is done; return its marker.

    Raises LeaseHeldError if another process is at the unit, DatasetError for input that is unreadable or
    not what was planned, CorruptError for a file that is not what corpus.checksums says.
    """
    folder = spill_folder(output)
    with locked(folder / f"unit-{unit:06d}.lock", f"unit {unit} of {output}"):
        if marker := unit_marker(plan, output, unit):
            return marker
        with Spill(plan.routing.buckets, folder) as spill:
            documents = _Unit(plan, encoder, spill)
            for known, piece in plan.pieces(unit):
                check_unchanged(known)
                if known.sha256 and piece.start == 0:  # each file once: by the unit that has its beginning
                    check_hash(known.path, known.sha256)
                for document in read_documents(piece, plan.corpus, plan.filters.max_bytes):
                    documents.add(document)
                check_unchanged(known)
            overlap = documents.overlap.record()
            return spill.write(unit, plan=plan.digest, counts=documents.counts, overlap=overlap)


class _Unit:
    """The documents of a unit on their way into its spill."""

    def __init__(self, plan: Plan, encoder: Encoder, spill: Spill):
        self._plan, self._encoder, self._spill = plan, encoder, spill
        self._filters, self._drop_above = plan.filters, plan.drop_above
        self._evaluation = load_evaluation(plan.evaluation)
        self.counts, self.overlap = Counts(), Overlap(self._evaluation)

    def add(self, document: Document | Drop) -> None:
        """Put a document into the spill, or count why not."""
        if isinstance(document, Drop):
            self.counts.drop(document)
        elif reason := reason_to_drop(document.utf8, self._filters) or self._contamination(document):
            self.counts.drop(reason)
        else:
            tokens = self._encoder.encode_array(document.text)
            text = hash_of(document.utf8)
            self._spill.add(self._plan.routing.bucket(text), text, len(document.utf8), tokens)
            self.counts.keep(len(document.utf8), len(tokens))

    def _contamination(self, document: Document) -> Drop | None:
        if not len(self._evaluation.grams):
            return None
        places, share = self._evaluation.places(document.utf8)
        dropped = share > self._drop_above
        self.overlap.meet(places, kept=not dropped)
        return Drop.CONTAMINATED if dropped else None


# ----- reduce


def bucket_result(plan: Plan, output: Path, bucket: int) -> BucketResult | None:
    """Return the result of a finished bucket whose shards are whole, else None."""
    try:
        raw = json.loads(_result_path(output, bucket).read_bytes())
        result = BucketResult(
            plan=raw["plan"],
            shards=tuple(
                (split, shard_of(record, plan.packing.block_tokens)) for split, record in raw["shards"]
            ),
            counts=_bucket_counts(raw["kept"], raw["duplicates"], raw["text_bytes"], raw["tokens"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    whole = all(
        (output / shard.name).exists() and sha256_of_file(output / shard.name) == shard.sha256
        for _, shard in result.shards
    )
    return result if whole and result.plan == plan.digest else None


def is_reduced(output: Path, bucket: int) -> bool:
    """Return whether there is a result of the bucket; `bucket_result` says whether it is whole."""
    return _result_path(output, bucket).exists()


def reduce_bucket(plan: Plan, output: Path, bucket: int, *, with_tail: bool) -> BucketResult:
    """Write a bucket's shard, without its duplicates and in seeded order, unless that is done.

    `with_tail` cuts the end of the stream off as the validation split.
    """
    folder = spill_folder(output)
    with locked(folder / f"bucket-{bucket:05d}.lock", f"bucket {bucket} of {output}"):
        if result := bucket_result(plan, output, bucket):
            return result
        sections = [read_section(folder, unit, bucket, plan=plan.digest) for unit in range(len(plan.units))]
        result = _reduced(plan, output, bucket, sections, with_tail)
        record: dict[str, Any] = {
            "plan": plan.digest,
            "shards": [[split, shard_record(shard)] for split, shard in result.shards],
            "kept": result.counts.kept,
            "duplicates": result.counts.dropped[Drop.DUPLICATE.value],
            "text_bytes": result.counts.text_bytes,
            "tokens": result.counts.tokens,
        }
        publish(_result_path(output, bucket), json.dumps(record).encode())
        return result


def _reduced(plan: Plan, output: Path, bucket: int, sections: list[Section], with_tail: bool) -> BucketResult:
    records = np.concatenate([section.records for section in sections])
    order = shuffled(records["high"], records["low"], plan.packing.seed)
    kept = order[~_repeats(records[order])]
    duplicates = len(records) - len(kept)
    ends = np.cumsum(records["tokens"][kept].astype(np.int64) + 1)  # an end-of-text before each document
    tokens = int(ends[-1]) if len(kept) else 0
    text_bytes = int(records["text_bytes"][kept].sum())
    counts = _bucket_counts(len(kept), duplicates, text_bytes, tokens - len(kept))
    if not tokens:
        return BucketResult(plan.digest, (), counts)
    if with_tail:
        train, validation = plan.routing.shards_of_both(bucket)
        parts = [(train, tokens - max(1, tokens // _TAIL_PART)), (validation, tokens)]
    else:
        parts = [(plan.routing.shard(bucket), tokens)]
    stream = Stream(with_ends(_documents(sections, records, kept), END_OF_TEXT))
    begins, first, shards, size = np.append(0, ends[:-1]), 0, [], plan.packing.block_tokens
    for (split, name), last in parts:
        cut = stream.blocks(last - first, size)
        documents = int(np.count_nonzero((first <= begins) & (begins < last)))
        shard = write_shard(
            output / name, cut, block_tokens=size, documents=documents, scratch=spill_folder(output)
        )
        shards.append((split, shard))
        first = last
    return BucketResult(plan.digest, tuple(shards), counts)


def _repeats(records: np.ndarray) -> np.ndarray:
    """Return which of the ordered documents have the text of the one before: bool, (documents,)."""
    repeats = np.zeros(len(records), bool)
    repeats[1:] = (records["high"][1:] == records["high"][:-1]) & (records["low"][1:] == records["low"][:-1])
    return repeats


def _documents(sections: list[Section], records: np.ndarray, kept: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the tokens of the documents `kept`, in that order."""
    firsts = np.cumsum([0, *(len(section.records) for section in sections)])
    ends = np.cumsum(records["tokens"].astype(np.int64))
    section_of = np.searchsorted(firsts, kept, side="right") - 1
    before_section = np.concatenate([[0], ends])[firsts[section_of]]
    stops = ends[kept] - before_section
    starts = stops - records["tokens"][kept].astype(np.int64)
    for section, start, stop in zip(section_of.tolist(), starts.tolist(), stops.tolist(), strict=True):
        yield sections[section].tokens[start:stop]


def _bucket_counts(kept: int, duplicates: int, text_bytes: int, tokens: int) -> Counts:
    counts = Counts(read=kept + duplicates, kept=kept, text_bytes=text_bytes, tokens=tokens)
    if duplicates:
        counts.dropped[Drop.DUPLICATE.value] = duplicates
    return counts


def _result_path(output: Path, bucket: int) -> Path:
    return spill_folder(output) / f"bucket-{bucket:05d}.json"
