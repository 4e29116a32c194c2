"""The way round a stretch of the order of training."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pretrain.stream.detours import Detour, is_left_behind, landed, merged

stretches = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 9)).map(lambda pair: Detour(pair[0], sum(pair))), max_size=6
)


@given(stretches)
def test_merging_changes_no_sequence_and_leaves_gaps_between(detours: list[Detour]):
    ways = merged(detours)
    assert {n for begin, end in ways for n in range(begin, end)} == {
        n for begin, end in detours for n in range(begin, end)
    }
    assert all(one.end < other.begin for one, other in itertools.pairwise(ways))


@given(stretches, st.integers(0, 60))
def test_one_lands_on_the_first_sequence_that_no_detour_passes_over(detours: list[Detour], sequence: int):
    found = landed(sequence, merged(detours))
    passed = {n for begin, end in detours for n in range(begin, end)}
    assert found not in passed
    assert all(n in passed for n in range(sequence, found))


def test_states_inside_a_detour_and_at_its_end_are_left_behind():
    """Behind the detour the next state has consumed a batch more than its end."""
    left = [n for n in range(0, 50, 4) if is_left_behind(n, [Detour(8, 20)])]
    assert left == [12, 16, 20]
