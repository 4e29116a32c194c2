import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.batch import BatchConfig, BatchSizes, batch_sizes, plan_batch

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


GROWING = {
    "first": st.integers(1, 12),
    "times": st.integers(1, 20),  # the full batch holds so many first ones
    "warmup": st.integers(0, 3000),
}


def walked(sizes: BatchSizes, steps: int) -> list[tuple[int, int]]:
    """Return (place, size) of the first steps, one after another."""
    found, place = [], 0
    for _ in range(steps):
        found.append((place, sizes.at(place)))
        place += found[-1][1]
    return found


@given(**GROWING)
def test_a_batch_grows_by_its_first_size_from_the_first_to_the_full_one(first: int, times: int, warmup: int):
    sizes = BatchSizes(first * times, first, warmup)
    found = [sizes.at(place) for place in range(warmup + 1)]
    assert found == sorted(found)
    assert set(found) <= {first * number for number in range(1, times + 1)}
    assert found[-1] == sizes.full
    if warmup >= times > 1:
        assert found[0] == first
        # A straight line: each size but the full one lasts as long as the others, to a sequence.
        lasts = [found.count(first * number) for number in range(1, times)]
        assert max(lasts) - min(lasts) <= 1


@given(**GROWING, steps=st.integers(0, 60))
def test_what_steps_consume_is_what_a_walk_over_them_takes(first: int, times: int, warmup: int, steps: int):
    sizes = BatchSizes(first * times, first, warmup)
    total = sum(size for _, size in walked(sizes, steps))
    assert sizes.consumed(steps) == total
    assert sizes.in_full(steps) == pytest.approx(total / sizes.full)
    assert sizes.steps(total) == steps
    if steps:
        assert sizes.steps(total - walked(sizes, steps)[-1][1] + 1) == steps, "the last one is needed"


def test_without_a_warm_up_every_step_is_full_and_counts_as_it_is():
    plan = plan_batch(BatchConfig(512), sequence_tokens=64, ranks=2)
    assert [plan.sizes.at(place) for place in (0, 8, 10**9)] == [8, 8, 8]
    assert plan.sizes.in_full(7) == 7
    assert isinstance(plan.sizes.in_full(7), int), "so that a rate is the one of that step, to the bit"


def test_gpt_3s_warm_up():
    """From 32k tokens to 0.5M over 4 billion: 16 sizes, in equal shares of the tokens."""
    sizes = batch_sizes(BatchConfig(524_288, 16, 32_768, 4_000_000_000), 2048)
    assert (sizes.first, sizes.full) == (16, 256)
    places = [2048 * 16, 1_000_000_000, 2_000_000_000, 3_990_000_000, 4_000_000_000]
    assert [sizes.at(place // 2048) * 2048 for place in places] == [
        32_768,
        131_072,
        262_144,
        491_520,
        524_288,
    ]


def test_a_growing_batch_has_one_shape_of_forwards():
    plan = plan_batch(BatchConfig(96 * 64, 8, 12 * 64, 64_000), sequence_tokens=64, ranks=2)
    assert plan.micro_sequences == 6, "divides 6 of the first batch; 8 would not"
    assert plan.accumulation == 8
    assert (plan.first_sequences, plan.warmup_sequences) == (12, 1000)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"warmup_from": 128}, "go together"),
        ({"warmup_tokens": 1000}, "go together"),
        ({"warmup_from": 1024, "warmup_tokens": 1000}, "not between 1 and batch.tokens 512"),
        ({"warmup_from": 0, "warmup_tokens": 1000}, "not between"),
        ({"warmup_from": 128, "warmup_tokens": -1}, "negative"),
    ],
)
def test_a_warm_up_that_makes_no_sense_is_refused(config: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        BatchConfig(512, **config)


def test_a_full_batch_that_is_no_multiple_of_the_first_is_refused():
    with pytest.raises(ValueError, match=r"no multiple .* 384; use 384"):
        BatchConfig(512, 8, 384, 10_000)


def test_a_first_batch_that_does_not_factor_is_refused():
    config = BatchConfig(512, 8, 64, 10_000)
    with pytest.raises(ValueError, match=r"warmup_from 64 does not divide among 2 ranks .*; use 128"):
        plan_batch(config, sequence_tokens=64, ranks=2)
