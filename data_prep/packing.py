"""How documents become blocks: one stream of tokens per shard, cut every `block_tokens`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from conf.exits import ConfigError

DTYPE = np.dtype("<u2")
LARGEST_BLOCK = 1 << 24  # tokens; a reader keeps a block for each lane
MOST_BLOCKS = 1 << 24  # of a shard: what an index claims of one costs a reader no more than 16 MB
# Below this a block's 640 bytes of tar and NumPy headers cost more than a quarter of its tokens.
_SMALLEST_BLOCK = 1024


@dataclass(frozen=True)
class PackingConfig:
    """How tokens are laid out in shards; part of what decides the output bytes."""

    block_tokens: int
    shard_tokens: int
    seed: int

    def __post_init__(self):
        fits = _SMALLEST_BLOCK <= self.block_tokens <= LARGEST_BLOCK
        if not fits or self.block_tokens & (self.block_tokens - 1):
            raise ConfigError(
                f"packing.block_tokens={self.block_tokens} is not a power of two from {_SMALLEST_BLOCK} to "
                f"{LARGEST_BLOCK}; 65536 is usual"
            )
        if self.shard_tokens < self.block_tokens:
            raise ConfigError(
                f"packing.shard_tokens={self.shard_tokens} is less than one block, {self.block_tokens} tokens"
            )
        if self.shard_tokens // self.block_tokens > MOST_BLOCKS // 2:  # documents do not fill shards evenly
            raise ConfigError(
                f"packing.shard_tokens={self.shard_tokens} is more than {MOST_BLOCKS // 2} blocks of "
                f"{self.block_tokens} tokens; 67108864 is usual"
            )
        if self.seed < 0:
            raise ConfigError(f"packing.seed={self.seed} is negative")


def with_ends(documents: Iterable[np.ndarray], end_of_text: int) -> Iterator[np.ndarray]:
    """Yield end-of-text before the tokens of each document, and once more behind the last."""
    end = np.array([end_of_text], DTYPE)
    for document in documents:
        yield end
        yield document
    yield end


class Stream:
    """The tokens of some arrays, uint16, one after another, taken in blocks.

    Nothing but a block is held: a copy of them all would be memory that is touched once and costs more than
    what is done with it.
    """

    def __init__(self, arrays: Iterable[np.ndarray]):
        self._arrays = iter(arrays)
        self._left = np.empty(0, DTYPE)
        self._next: np.ndarray | None = None  # the overlap token of the block before

    def blocks(self, tokens: int, block_tokens: int) -> Iterator[np.ndarray]:
        """Yield the next `tokens`, cut every `block_tokens`: uint16, (block_tokens + 1,) or fewer at the end.

        The overlap token at a block's end comes again as the first of the next, also of the next call.
        An array is good until the next one is asked for. Raises ValueError if there are too few tokens.
        """
        buffer = np.empty(block_tokens + 1, DTYPE)
        for start in range(0, tokens, block_tokens):
            block = buffer[: min(block_tokens, tokens - start) + 1]
            if self._next is None:
                self._fill(block)
            else:
                block[:1] = self._next
                self._fill(block[1:])
            self._next = block[-1:].copy()
            yield block

    def _fill(self, wanted: np.ndarray) -> None:
        done = 0
        while done < len(wanted):
            if not len(self._left):
                array = next(self._arrays, None)
                if array is None:
                    raise ValueError(f"the arrays end {len(wanted) - done} tokens before the blocks")
                self._left = array
            part = self._left[: len(wanted) - done]
            wanted[done : done + len(part)] = part
            self._left = self._left[len(part) :]
            done += len(part)
