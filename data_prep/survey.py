"""What a data set holds: the lengths of its documents, its bytes per token, samples of its text."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_prep.index import Index, Split
from data_prep.shards import read_block, read_blocks

# Histogram classes: documents of 2**n to 2**(n+1) - 1 tokens.
_CLASSES = 40
# Tokens of a sample document that are decoded.
_SAMPLE_TOKENS = 512


@dataclass(frozen=True)
class Survey:
    """Figures of one split."""

    lengths: np.ndarray  # documents by class of length in tokens: int64, (_CLASSES,)
    shortest: int
    longest: int
    median: int
    samples: list[list[int]]  # the first tokens of some documents


def survey(index: Index, split: Split, samples: int) -> Survey:
    """Return the figures of a split, every block of it read once.

    A split that was cut from the end of another begins inside a document; that part is counted as one.
    """
    lengths = np.concatenate([np.zeros(0, np.int64), *_document_lengths(index, split)])
    lengths = lengths[lengths > 0]
    if not len(lengths):
        return Survey(np.zeros(_CLASSES, np.int64), 0, 0, 0, [])
    classes = np.bincount(np.log2(lengths).astype(np.int64), minlength=_CLASSES)
    first = _first_documents(index, split, samples)
    return Survey(classes, int(lengths.min()), int(lengths.max()), int(np.median(lengths)), first)


def _document_lengths(index: Index, split: Split) -> Iterator[np.ndarray]:
    """Yield, for each shard, the tokens between its end-of-text tokens."""
    for shard in split.shards:
        ends, start = [-1], 0
        for block in read_blocks(index.directory, shard):
            payload = block[:-1]
            ends.extend((np.flatnonzero(payload == index.end_of_text) + start).tolist())
            start += len(payload)
        yield np.diff([*ends, start]) - 1


def _first_documents(index: Index, split: Split, samples: int) -> list[list[int]]:
    """Return the first tokens of the first documents of the split's first block."""
    payload = read_block(index.directory, split.shards[0], 0)[:-1]
    starts = np.flatnonzero(payload == index.end_of_text)[:samples] + 1
    documents = []
    for start in starts.tolist() or [0]:
        document = payload[start : start + _SAMPLE_TOKENS]
        ends = np.flatnonzero(document == index.end_of_text)
        documents.append(document[: ends[0] if len(ends) else None].tolist())
    return documents[:samples]
