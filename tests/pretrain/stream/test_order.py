from collections import Counter
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.stream.order import Order, Place, Walk
from pretrain.stream.shuffle import permutation

# Blocks of very different length, empty ones (shorter than one sequence) included.
BLOCKS = st.lists(st.integers(0, 9), min_size=1, max_size=20).filter(lambda rows: sum(rows) > 0)


def every_row(rows: list[int]) -> Counter[tuple[int, int]]:
    return Counter((block, row) for block, count in enumerate(rows) for row in range(count))


@given(rows=BLOCKS, lanes=st.integers(1, 12), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_every_row_of_every_block_is_read_exactly_once_per_epoch(rows: list[int], lanes: int, seed: int):
    """Lanes may enter an epoch at different sequence numbers, so an epoch is what bears its number."""
    order = Order(np.array(rows), lanes=lanes, seed=seed)
    epochs = 3
    longest = max(rows) * -(-len(rows) // lanes) * lanes  # of one epoch, when one lane has all long blocks
    seen: dict[int, Counter[tuple[int, int]]] = {epoch: Counter() for epoch in range(epochs + 1)}
    for epoch, block, row in order.places(0, (epochs + 1) * (longest + lanes * max(rows))).tolist():
        if epoch <= epochs:
            seen[epoch][block, row] += 1
    for epoch in range(epochs):
        assert seen[epoch] == every_row(rows), epoch


@given(rows=st.integers(1, 8), turns=st.integers(1, 4), lanes=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_equal_blocks_that_fill_the_lanes_make_an_epoch_of_consecutive_sequences(
    rows: int, turns: int, lanes: int, seed: int
):
    order = Order(np.full(turns * lanes, rows), lanes=lanes, seed=seed)
    size = order.sequences_per_epoch
    assert size == rows * turns * lanes
    for epoch in range(3):
        places = [order.place(epoch * size + number) for number in range(size)]
        assert {place.epoch for place in places} == {epoch}
        assert Counter((place.block, place.row) for place in places) == every_row([rows] * turns * lanes)


@given(rows=BLOCKS, lanes=st.integers(1, 6), sequence=st.integers(0, 500))
@settings(max_examples=50, deadline=None)
def test_a_place_depends_on_nothing_that_was_asked_before(rows: list[int], lanes: int, sequence: int):
    used = Order(np.array(rows), lanes=lanes, seed=5)
    for number in range(0, 500, 7):
        used.place(number)
    assert used.place(sequence) == Order(np.array(rows), lanes=lanes, seed=5).place(sequence)


def test_a_rank_with_its_slice_of_the_batch_opens_only_the_blocks_of_its_lanes():
    """Two ranks, a batch of 8 in 8 lanes: the first four sequences of every batch are four lanes'."""
    order = Order(np.full(64, 16), lanes=8, seed=0)
    per_rank: list[set[int]] = [set(), set()]
    for batch in range(16):  # while every lane reads its first block
        for within in range(8):
            per_rank[within // 4].add(order.place(8 * batch + within).block)
    assert [len(blocks) for blocks in per_rank] == [4, 4]
    assert not per_rank[0] & per_rank[1]


def test_a_batch_mixes_as_many_blocks_as_there_are_lanes():
    order = Order(np.full(64, 16), lanes=8, seed=0)
    for batch in range(128):
        assert len({order.place(8 * batch + lane)[:2] for lane in range(8)}) == 8


def test_epochs_and_seeds_differ_in_blocks_and_in_rows():
    rows = np.full(32, 32)
    first = Order(rows, lanes=4, seed=0)
    size = first.sequences_per_epoch
    begin = [first.place(number) for number in range(256)]
    for other in (
        [first.place(size + number) for number in range(256)],
        [Order(rows, lanes=4, seed=1).place(number) for number in range(256)],
    ):
        assert [place.block for place in begin] != [place.block for place in other]
        assert [place.row for place in begin] != [place.row for place in other]


def test_two_blocks_have_their_rows_in_different_orders():
    order = Order(np.array([64, 64]), lanes=1, seed=0)
    rows = [order.place(number).row for number in range(128)]
    assert rows[:64] != rows[64:]


def test_the_order_is_the_one_that_runs_in_flight_were_begun_with():
    """Golden values. If they change, every run in flight is reordered when it resumes: do not."""
    assert permutation(10, 1337, 0).tolist() == [4, 3, 5, 0, 8, 6, 9, 2, 1, 7]
    order = Order(np.array([4, 4, 1, 4, 0, 3]), lanes=3, seed=1337)
    assert [order.place(number) for number in (0, 1, 2, 3, 17, 1000)] == [
        Place(epoch=0, block=0, row=2),
        Place(epoch=0, block=3, row=2),
        Place(epoch=0, block=5, row=2),
        Place(epoch=0, block=0, row=3),
        Place(epoch=0, block=1, row=3),
        Place(epoch=59, block=0, row=2),
    ]
    uneven = Order(np.array([4, 4, 1, 3]), lanes=3, seed=1337)  # the second deal begins at the second lane
    assert [uneven.place(number) for number in (0, 12, 20, 1000)] == [
        Place(epoch=0, block=3, row=2),
        Place(epoch=0, block=1, row=1),
        Place(epoch=2, block=1, row=1),
        Place(epoch=82, block=1, row=2),
    ]


@given(
    rows=BLOCKS,
    lanes=st.integers(1, 9),
    questions=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 40)), max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_many_places_at_once_are_those_asked_for_one_by_one(
    rows: list[int], lanes: int, questions: list[tuple[int, int]]
):
    """Forwards, backwards, across lanes, blocks and epochs: each answer as from an order asked one by one."""
    order, single = (Order(np.array(rows), lanes=lanes, seed=3) for _ in range(2))
    for first, count in questions:
        expected = [single.place(number) for number in range(first, first + count)]
        assert [Place(*each) for each in order.places(first, count).tolist()] == expected


def test_two_walks_through_one_order_do_not_disturb_each_other():
    order = Order(np.array([4, 4, 1, 4, 0, 3] * 20), lanes=5, seed=1)
    ahead, behind = Walk(order), Walk(order)
    expected = Order(np.array([4, 4, 1, 4, 0, 3] * 20), lanes=5, seed=1).places(0, 800)
    for step in range(50):
        assert np.array_equal(ahead.places(300 + 10 * step, 10), expected[300 + 10 * step :][:10])
        assert np.array_equal(behind.places(10 * step, 10), expected[10 * step :][:10])


def test_a_jump_to_sequence_a_billion_deals_the_blocks_but_walks_no_rows():
    """4.3 billion tokens in blocks of 2**16, sequences of 64: 15 epochs of 65,536 blocks are dealt."""
    order = Order(np.full(65_536, 1024), lanes=512, seed=0)
    started = perf_counter()
    assert order.place(10**9).epoch == 10**9 // (65_536 * 1024)
    assert perf_counter() - started < 10


def test_no_sequence_and_no_lane_are_refused():
    with pytest.raises(ValueError, match="no whole sequence"):
        Order(np.array([0, 0]), lanes=1, seed=0)
    with pytest.raises(ValueError, match="lanes must be at least 1, not 0"):
        Order(np.array([1]), lanes=0, seed=0)
