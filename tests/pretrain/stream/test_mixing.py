"""Several sources in one order, each in its proportion."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.stream.mixing import Mixture, MixtureWalk, quotas
from pretrain.stream.order import Order

SIZES = [np.array([4, 4, 1, 4, 0, 3] * 4), np.array([8] * 9), np.array([2, 1])]
WEIGHTS = [3.0, 2.0, 0.5]


def mixture(lanes: int = 16, seed: int = 5) -> Mixture:
    return Mixture(SIZES, WEIGHTS, lanes=lanes, seed=seed)


def test_with_one_source_the_order_is_the_one_that_it_has_alone():
    alone, order = Mixture(SIZES[:1], [7.0], lanes=6, seed=3), Order(SIZES[0], lanes=6, seed=3)
    assert np.array_equal(MixtureWalk(alone).places(11, 300)[:, 1:], order.places(11, 300))
    assert not MixtureWalk(alone).places(0, 300)[:, 0].any()


def test_every_row_of_every_source_comes_once_in_each_of_its_epochs():
    places = MixtureWalk(mixture()).places(0, 6000).tolist()
    for source, rows in enumerate(SIZES):
        expected = Counter((block, row) for block, count in enumerate(rows) for row in range(count))
        taken = [(epoch, block, row) for at, epoch, block, row in places if at == source]
        # Lanes come into an epoch at different times; it is over when the last of them has left it.
        whole_epochs = min(epoch for epoch, *_ in taken[-mixture().quotas[source] :])
        assert whole_epochs > 3
        for epoch in range(whole_epochs):
            seen = Counter((b, r) for e, b, r in taken if e == epoch)
            assert seen == expected, (source, epoch)


def test_every_period_holds_each_source_in_its_proportion():
    mixed = mixture()
    assert mixed.quotas == [9, 6, 1], "16 lanes by 3 : 2 : 0.5, the largest rests rounded up"
    for period in range(20):
        drawn = Counter(MixtureWalk(mixed).places(16 * period, 16)[:, 0].tolist())
        assert [drawn[source] for source in range(3)] == mixed.quotas
        assert mixed.consumed(16 * period) == [period * quota for quota in mixed.quotas]


@given(first=st.integers(0, 5000), count=st.integers(1, 70), lanes=st.integers(12, 40))
@settings(max_examples=40, deadline=None)
def test_a_jump_finds_what_walking_would_and_the_count_of_each_source(first: int, count: int, lanes: int):
    mixed = mixture(lanes)
    walked = MixtureWalk(mixed).places(0, first + count)
    assert np.array_equal(MixtureWalk(mixture(lanes)).places(first, count), walked[first:])
    assert mixed.consumed(first + count) == [int((walked[:, 0] == source).sum()) for source in range(3)]


def test_the_lanes_of_a_source_are_spread_over_the_batch():
    table = mixture(lanes=64).table
    assert len(set(table[:16].tolist())) > 1
    assert not np.array_equal(table, np.sort(table))


def test_sources_of_one_size_are_not_read_in_the_same_order():
    twins = Mixture([np.full(32, 4), np.full(32, 4)], [1, 1], lanes=8, seed=0)
    places = MixtureWalk(twins).places(0, 256)
    one, other = (places[places[:, 0] == source, 2].tolist() for source in (0, 1))
    assert one != other


def test_the_mixed_order_is_the_one_that_runs_in_flight_were_begun_with():
    """Golden values. If they change, every mixed run in flight is reordered when it resumes: do not."""
    assert mixture().table.tolist() == [0, 1, 0, 0, 1, 0, 2, 0, 0, 1, 1, 1, 0, 0, 0, 1]
    assert MixtureWalk(mixture()).places(100, 4).tolist() == [
        [1, 0, 4, 3],
        [0, 1, 0, 3],
        [2, 2, 0, 0],
        [0, 0, 1, 2],
    ]


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=8), lanes=st.integers(1, 600))
@settings(max_examples=60, deadline=None)
def test_quotas_fill_the_lanes_and_miss_no_share_by_one_or_more(weights: list[float], lanes: int):
    try:
        found = quotas(weights, lanes)
    except ValueError:
        assert min(weights) / sum(weights) * lanes < 1
        return
    assert sum(found) == lanes
    assert all(abs(q - w / sum(weights) * lanes) < 1 for q, w in zip(found, weights, strict=True))


def test_a_weight_of_less_than_a_lane_is_refused_with_as_many_lanes_as_it_takes():
    with pytest.raises(
        ValueError, match=r"weight 0\.01 of source 1 .* 16 lanes; set data\.lanes to (\d+)"
    ) as caught:
        quotas([1, 0.01], 16)
    enough = int(str(caught.value).split("lanes to ")[1].split()[0])
    assert quotas([1, 0.01], enough)[1] == 1


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=6), lanes=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_the_fitting_lanes_give_every_source_its_share_within_a_tenth(weights: list[float], lanes: int):
    if min(weights) / sum(weights) * lanes < 1:
        return
    mixed = Mixture([np.full(4, 4)] * len(weights), weights, lanes=lanes, seed=0)
    fitting = mixed.fitting_lanes
    assert fitting % lanes == 0
    found = np.array(quotas(weights, fitting)) / fitting
    assert (abs(found / mixed.shares - 1) <= 0.1 + 1e-9).all()
    assert (fitting == lanes) == (mixed.misfits == [])


def test_passes_tell_how_often_each_source_is_read():
    assert mixture().passes(16 * 64) == pytest.approx([9 * 64 / 64, 6 * 64 / 72, 64 / 3])
