from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.stream import shuffle
from pretrain.stream.shuffle import permutation, permutations


def test_a_shuffle_is_not_far_from_uniform():
    """Chi-square over the first place of 8 in 4,000 permutations; 24.3 is passed once in 1,000."""
    firsts = Counter(int(permutation(8, seed)[0]) for seed in range(4000))
    assert sum((firsts[n] - 500) ** 2 / 500 for n in range(8)) < 24.3


@given(size=st.integers(1, 300), key=st.lists(st.integers(0, 2**64), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_permutation_is_one(size: int, key: list[int]):
    assert sorted(permutation(size, *key).tolist()) == list(range(size))


def test_the_permutations_are_the_ones_that_runs_in_flight_were_begun_with():
    """Golden values. If they change, every run in flight is reordered when it resumes: do not."""
    assert permutation(10, 1337, 0).tolist() == [4, 3, 5, 0, 8, 6, 9, 2, 1, 7]
    assert permutation(5, 7, 2, 3, 1).tolist() == permutations(5, 7, 2, np.array([9, 3]), 1)[1].tolist()


@pytest.mark.parametrize("size", [1000, 32_768, 100_001])
def test_a_large_permutation_is_made_in_halves_and_is_the_same(size: int, monkeypatch: pytest.MonkeyPatch):
    expected = permutation(size, 5, 8)
    monkeypatch.setattr(shuffle, "_AT_ONCE", 10)
    assert np.array_equal(permutation(size, 5, 8), expected)


def test_numbers_whose_packed_hashes_are_alike_are_told_apart_by_the_whole_hash(
    monkeypatch: pytest.MonkeyPatch,
):
    """Of this hash only 18 bits vary where the packed key sees them, and 100,000 numbers share those."""
    size = 100_000

    def poor(x: np.ndarray) -> np.ndarray:
        high = (x * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(46) << np.uint64(46)
        return high | (x ^ np.uint64(0x5555)) % np.uint64(2**17)  # still no two alike

    monkeypatch.setattr(shuffle, "hashed", poor)
    expected = permutation(size, 5, 8)
    monkeypatch.setattr(shuffle, "_AT_ONCE", 10)
    assert np.array_equal(permutation(size, 5, 8), expected)
