"""Check that every byte of a data set still is what its index says.

usage: python -m data_prep.verify output=DIR

Reads every shard once: compares its hashes, its tar headers and its counts with index.json, and decodes
its tokens. The first difference is named by shard, member and offset [exit 13].
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from conf import compose, typed
from conf.command import run
from conf.exits import CorruptError, DatasetError
from data_prep.index import INDEX, Index, read_index
from data_prep.packing import DTYPE
from data_prep.progress import Progress
from data_prep.shards import Shard, check_block, member_name, read_digests
from data_prep.tokenizer import load_tokenizer
from data_prep.writer import frames


@dataclass(frozen=True)
class VerifyConfig:
    """Which data set to verify."""

    output: str


def main(overrides: list[str]) -> None:
    """Verify all shards of a data set."""
    config = typed(VerifyConfig, compose("verify", overrides))
    index = read_index(Path(config.output))
    tokenizer = load_tokenizer()
    if index.vocabulary_sha256 != tokenizer.vocabulary_sha256:
        raise DatasetError(
            f"{index.directory} was tokenized with vocabulary {index.vocabulary_sha256[:16]}…, "
            f"not {tokenizer.vocabulary_sha256[:16]}…; prepare the corpus again"
        )
    shards = [shard for split in index.splits.values() for shard in split.shards]
    progress = Progress("verify", sum(shard.bytes for shard in shards))
    text_bytes, lengths = 0, tokenizer.byte_lengths()
    for shard in shards:
        text_bytes += verify_shard(index, shard, lengths)
        progress.advance(shard.bytes, shard.tokens)
    progress.finish()
    if text_bytes != index.counts["text_bytes"]:
        # Every member is what its digest says, so it is the index that tells another story.
        members = sum(shard.block_count for shard in shards)
        raise CorruptError(
            f"{index.directory / INDEX}: counts.text_bytes is {index.counts['text_bytes']}, though "
            f"the tokens of all {members} members, each as its digest says, give {text_bytes}; copy it again"
        )
    size = sum(shard.bytes for shard in shards)
    print(
        f"verify: {index.directory} is whole: {len(shards):,} shards, {size / 1e6:,.1f} MB, "
        f"{sum(shard.tokens for shard in shards):,} tokens, "
        f"{sum(shard.documents for shard in shards):,} documents, {text_bytes / 1e6:,.1f} MB of text "
        f"({size / 1e6 / progress.elapsed_seconds:,.0f} MB/s)"
    )


def verify_shard(index: Index, shard: Shard, byte_lengths: np.ndarray) -> int:
    """Return the bytes of text that a shard's tokens decode to, given the length of each token.

    Raises DatasetError if the shard is missing and CorruptError at the first difference from the index.
    """
    path = index.directory / shard.name
    documents = text_bytes = 0
    expected_first: int | None = None
    try:
        with path.open("rb") as file:
            for number, block in enumerate(_blocks(file, path, shard)):
                place = f"{path}: member {member_name(number)} at offset {shard.block(number).offset}"
                if block.max() >= len(byte_lengths):
                    raise CorruptError(f"{place} holds token {block.max()}, which the vocabulary lacks")
                if expected_first not in {None, int(block[0])}:
                    raise CorruptError(f"{place} does not begin with the overlap token of the block before")
                expected_first = int(block[-1])
                documents += int((block[:-1] == index.end_of_text).sum())
                text_bytes += int(byte_lengths[block[:-1]].sum())
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing, though the index lists it; copy it again") from None
    if documents != shard.documents:
        raise CorruptError(f"{path} holds {documents} documents, the index counts {shard.documents}")
    return text_bytes


def _blocks(file: BinaryIO, path: Path, shard: Shard) -> Iterator[np.ndarray]:
    """Yield the blocks of a shard's file, every byte of it checked."""
    digests, digest, position = read_digests(path.parent, shard), hashlib.sha256(), 0
    *before, after = frames(shard, digests)
    for number, (frame, expected) in enumerate(zip(before, digests.tolist(), strict=True)):
        _compare(file.read(len(frame)), frame, f"{path}: header of {member_name(number)}", position)
        content = file.read((shard.block(number).tokens + 1) * DTYPE.itemsize)
        check_block(content, shard, number, expected, str(path))
        digest.update(frame + content)
        position += len(frame) + len(content)
        yield np.frombuffer(content, DTYPE)
    _compare(file.read(len(after) + 1), after, f"{path}: digests, metadata and end of the tar", position)
    digest.update(after)
    if digest.hexdigest() != shard.sha256:
        raise CorruptError(f"{path}: its SHA-256 differs from the index, though every block agrees")


def _compare(found: bytes, expected: bytes, what: str, position: int) -> None:
    """Raise CorruptError at the first byte that differs."""
    if found == expected:
        return
    same = next((n for n, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), None)
    at = position + (min(len(found), len(expected)) if same is None else same)
    raise CorruptError(f"{what} differs from the format at offset {at}; copy the shard again")


if __name__ == "__main__":
    run(main, name="data_prep.verify", config="verify", usage=__doc__ or "")
