import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.exits import ConfigError
from data_prep.packing import PackingConfig, Stream, with_ends

END = 50256


def as_list(stream: Stream, tokens: int, block_tokens: int) -> list[np.ndarray]:
    return [block.copy() for block in stream.blocks(tokens, block_tokens)]


@given(
    documents=st.lists(st.lists(st.integers(0, END - 1), max_size=50), min_size=1, max_size=20),
    block_tokens=st.integers(1, 40),
    data=st.data(),
)
def test_blocks_hold_every_token_once_and_the_first_of_the_next(
    documents: list[list[int]], block_tokens: int, data: st.DataObject
):
    arrays = [np.array(document, np.uint16) for document in documents]
    tokens = [token for document in documents for token in [END, *document]]
    first = data.draw(st.integers(0, len(tokens)))  # into one shard, the rest into another
    stream = Stream(with_ends(arrays, END))
    cut = [as_list(stream, part, block_tokens) for part in (first, len(tokens) - first)]
    assert [token for blocks in cut for block in blocks for token in block[:-1].tolist()] == tokens
    assert all(len(block) == block_tokens + 1 for blocks in cut for block in blocks[:-1])
    firsts = [int(block[0]) for blocks in cut for block in blocks]
    assert [int(block[-1]) for blocks in cut for block in blocks] == [*firsts[1:], END]


def test_blocks_of_more_tokens_than_there_are_are_refused():
    with pytest.raises(ValueError, match="3 tokens before"):
        as_list(Stream([np.zeros(6, np.uint16)]), 8, 4)


@pytest.mark.parametrize(
    ("block_tokens", "shard_tokens", "seed"),
    [
        (1 << 25, 1 << 26, 0),
        (1024, 1 << 34, 0),
        (1000, 4096, 0),
        (512, 4096, 0),
        (4096, 2048, 0),
        (1024, 2048, -1),
    ],
)
def test_a_layout_that_cannot_be_read_back_is_refused(block_tokens: int, shard_tokens: int, seed: int):
    with pytest.raises(ConfigError, match="packing"):
        PackingConfig(block_tokens, shard_tokens, seed)
