import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.batch import BatchConfig, plan_batch

SIZES = {
    "tokens": st.integers(1, 2**20),
    "sequence_tokens": st.sampled_from([1, 64, 128, 1000, 1024]),
    "ranks": st.integers(1, 600),
    "limit": st.integers(1, 64),
}


@given(**SIZES)
def test_a_batch_is_cut_without_a_remainder_or_refused_with_sizes_that_work(
    tokens: int, sequence_tokens: int, ranks: int, limit: int
):
    try:
        plan = plan_batch(BatchConfig(tokens, limit), sequence_tokens=sequence_tokens, ranks=ranks)
    except ValueError as error:
        assert tokens % (sequence_tokens * ranks)
        offered = [int(number) for number in re.findall(r"\d+", str(error).partition("use ")[2])]
        assert offered
        for number in offered:
            assert abs(number - tokens) < sequence_tokens * ranks, "a nearest one"
            plan_batch(BatchConfig(number, limit), sequence_tokens=sequence_tokens, ranks=ranks)
        return
    assert plan.ranks * plan.accumulation * plan.micro_sequences == plan.sequences
    assert plan.sequences * sequence_tokens == tokens
    assert 1 <= plan.micro_sequences <= limit


@given(**SIZES)
def test_the_micro_batch_is_the_largest_that_the_limit_allows(
    tokens: int, sequence_tokens: int, ranks: int, limit: int
):
    per_rank = tokens % 97 + 1
    plan = plan_batch(
        BatchConfig(per_rank * ranks * sequence_tokens, limit), sequence_tokens=sequence_tokens, ranks=ranks
    )
    assert plan.micro_sequences <= limit
    larger = range(plan.micro_sequences + 1, limit + 1)
    assert not [size for size in larger if size <= per_rank and per_rank % size == 0]


def test_the_global_batch_does_not_depend_on_the_number_of_ranks():
    plans = [plan_batch(BatchConfig(524_288, 16), sequence_tokens=1024, ranks=2**n) for n in range(10)]
    assert {plan.sequences for plan in plans} == {512}
    assert [plan.accumulation for plan in plans] == [32, 16, 8, 4, 2, 1, 1, 1, 1, 1]


def test_the_error_names_what_was_given_and_both_neighbours():
    with pytest.raises(
        ValueError, match=r"batch\.tokens 500 .* 2 ranks × sequences of 64 .*; use 384 or 512"
    ):
        plan_batch(BatchConfig(500), sequence_tokens=64, ranks=2)


def test_zero_is_not_offered_as_a_neighbour():
    with pytest.raises(ValueError, match=r"use 1024$"):
        plan_batch(BatchConfig(100), sequence_tokens=1024, ranks=1)


@pytest.mark.parametrize("name", ["tokens", "micro_sequences"])
def test_a_size_of_zero_is_refused(name: str):
    with pytest.raises(ValueError, match=rf"batch\.{name} must be at least 1, not 0"):
        BatchConfig(**{name: 0})
