import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.exits import ConfigError
from data_prep.packing import PackingConfig, blocks, stream

END = 50256


@given(st.lists(st.lists(st.integers(0, END - 1), max_size=50), min_size=1, max_size=20), st.integers(1, 40))
def test_blocks_hold_every_token_once_and_the_first_of_the_next(
    documents: list[list[int]], block_tokens: int
):
    arrays = [np.array(document, np.uint16) for document in documents]
    total = sum(len(document) + 1 for document in documents)
    tokens = stream(arrays, total, END)
    assert tokens.tolist() == [token for document in documents for token in [END, *document]]
    cut = list(blocks(tokens, block_tokens, END))
    assert np.concatenate([block[:-1] for block in cut]).tolist() == tokens.tolist()
    assert all(len(block) == block_tokens + 1 for block in cut[:-1])
    assert [int(block[-1]) for block in cut] == [int(block[0]) for block in cut[1:]] + [END]


@pytest.mark.parametrize(
    ("block_tokens", "shard_tokens", "seed"),
    [(1000, 4096, 0), (512, 4096, 0), (4096, 2048, 0), (1024, 2048, -1)],
)
def test_a_layout_that_cannot_be_read_back_is_refused(block_tokens: int, shard_tokens: int, seed: int):
    with pytest.raises(ConfigError, match="packing"):
        PackingConfig(block_tokens, shard_tokens, seed)
