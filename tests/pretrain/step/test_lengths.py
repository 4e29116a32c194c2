import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.documents import documents
from pretrain.step.lengths import RowLengths, folded


@given(doublings=st.integers(0, 6), first=st.integers(1, 48), warmup=st.integers(1, 100_000), data=st.data())
def test_rows_double_after_equal_shares_of_the_warm_up_and_are_whole_from_its_end_on(
    doublings: int, first: int, warmup: int, data: st.DataObject
):
    lengths = RowLengths(first << doublings, first, warmup)
    tokens = data.draw(st.integers(0, 2 * warmup))
    times = min(tokens * doublings // warmup, doublings)
    assert lengths.at(tokens) == first << times
    assert lengths.at(warmup) == lengths.full


def test_without_a_warm_up_rows_are_whole_sequences():
    assert RowLengths(1024, 1024).at(0) == 1024


@pytest.mark.parametrize("first", [48, 3, 2048, 96])
def test_a_first_length_that_never_becomes_a_sequence_is_refused_with_those_that_do(first: int):
    with pytest.raises(
        ValueError, match=rf"batch.rows_from {first} is not .* 1024 halved; use 512 or 256 or 128"
    ):
        RowLengths(1024, first)


def test_folding_keeps_each_pair_of_a_token_and_the_next():
    sequences = torch.arange(3 * 17).reshape(3, 17)
    rows = folded(sequences, 4)
    assert rows.shape == (12, 5)
    pairs = torch.stack((rows[:, :-1].flatten(), rows[:, 1:].flatten()), 1)
    whole = torch.stack((sequences[:, :-1].flatten(), sequences[:, 1:].flatten()), 1)
    assert torch.equal(pairs, whole)


def test_a_whole_row_is_the_sequence_itself_and_not_a_copy():
    sequences = torch.arange(34).reshape(2, 17)
    assert folded(sequences, 16).data_ptr() == sequences.data_ptr()


def test_documents_of_a_short_row_begin_where_the_row_does():
    rows = folded(torch.tensor([[0, 5, 6, 7, 0, 8, 9, 7, 6]]), 4)
    assert documents(rows[:, :-1], end_of_text=0).positions.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
