"""A data set that exists nowhere: tokens by arithmetic, for benchmarks of everything but storage."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.index import Index, Split
from data_prep.shards import Shard
from data_prep.tokenizer import END_OF_TEXT, NAME, VOCABULARY_SHA256
from pretrain.stream.shuffle import hashed

_BLOCK_TOKENS = 1 << 16
_BLOCKS_PER_SHARD = 1024
_VALIDATION_BLOCKS = 8
_DOCUMENT_TOKENS = 512  # on average, as of web text


def synthetic_index(tokens: int) -> Index:
    """Return the index of a data set of so many training tokens, rounded up to whole blocks."""
    blocks = -(-tokens // _BLOCK_TOKENS)
    train = [
        _shard("train", first // _BLOCKS_PER_SHARD, min(_BLOCKS_PER_SHARD, blocks - first))
        for first in range(0, blocks, _BLOCKS_PER_SHARD)
    ]
    splits = {"train": train, "validation": [_shard("validation", 0, _VALIDATION_BLOCKS)]}
    return Index(
        location=f"synthetic:{blocks * _BLOCK_TOKENS}",
        fingerprint=hashlib.sha256(f"synthetic {blocks}".encode()).hexdigest(),
        tokenizer=NAME,
        vocabulary_sha256=VOCABULARY_SHA256,
        end_of_text=END_OF_TEXT,
        block_tokens=_BLOCK_TOKENS,
        splits={
            name: Split(sum(s.tokens for s in shards), sum(s.documents for s in shards), tuple(shards))
            for name, shards in splits.items()
        },
        validation_rule="none",
    )


class SyntheticBlocks:
    """Blocks of tokens that differ and mean nothing."""

    looks_ahead = False

    def read(self, shard: Shard, number: int, into: np.ndarray) -> None:
        """Make one block; see Blocks."""
        split, _, count = Path(shard.name).stem.partition("-")
        first = (int(count) * _BLOCKS_PER_SHARD + number) * _BLOCK_TOKENS + (split == "validation") * 2**60
        numbers = hashed(np.arange(first, first + len(into), dtype=np.uint64))
        into[:] = (numbers >> np.uint64(32)) % np.uint64(END_OF_TEXT)
        into[numbers % np.uint64(_DOCUMENT_TOKENS) == 0] = END_OF_TEXT

    def expect(self, wanted: Sequence[tuple[Shard, int]]) -> None:
        """Do nothing: a block is made in a millisecond."""

    def close(self) -> None:
        """Do nothing: nothing goes on."""


def _shard(split: str, number: int, blocks: int) -> Shard:
    tokens = blocks * _BLOCK_TOKENS
    facts = {"name": f"{split}-{number:05d}.tar", "bytes": 1 << 62, "sha256": "", "digests": ""}
    return Shard(**facts, tokens=tokens, documents=tokens // _DOCUMENT_TOKENS, block_tokens=_BLOCK_TOKENS)
