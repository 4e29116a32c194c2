"""How documents become blocks: one stream of tokens per shard, cut every `block_tokens`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from conf.exits import ConfigError

DTYPE = np.dtype("<u2")
# Below this a block's 640 bytes of tar and NumPy headers cost more than a quarter of its tokens.
_SMALLEST_BLOCK = 1024


@dataclass(frozen=True)
class PackingConfig:
    """How tokens are laid out in shards; part of what decides the output bytes."""

    block_tokens: int
    shard_tokens: int
    seed: int

    def __post_init__(self):
        if self.block_tokens < _SMALLEST_BLOCK or self.block_tokens & (self.block_tokens - 1):
            raise ConfigError(
                f"packing.block_tokens={self.block_tokens} is not a power of two from {_SMALLEST_BLOCK} on; "
                "65536 is usual"
            )
        if self.shard_tokens < self.block_tokens:
            raise ConfigError(
                f"packing.shard_tokens={self.shard_tokens} is less than one block, {self.block_tokens} tokens"
            )
        if self.seed < 0:
            raise ConfigError(f"packing.seed={self.seed} is negative")


def stream(documents: Iterable[np.ndarray], tokens: int, end_of_text: int) -> np.ndarray:
    """Return end-of-text and the tokens of each document in turn: uint16, (tokens,)."""
    packed = np.empty(tokens, DTYPE)
    end = 0
    for document in documents:
        packed[end] = end_of_text
        packed[end + 1 : end + 1 + len(document)] = document
        end += 1 + len(document)
    assert end == tokens
    return packed


def blocks(tokens: np.ndarray, block_tokens: int, following: int) -> Iterator[np.ndarray]:
    """Yield each block with its overlap token: uint16, (block_tokens + 1,), the last one maybe shorter.

    The overlap token is a copy of the next block's first; after the last block it is `following`.
    """
    for start in range(0, len(tokens), block_tokens):
        block = tokens[start : start + block_tokens + 1]
        if start + block_tokens >= len(tokens):
            block = np.append(block, DTYPE.type(following))
        yield block
