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


def as_defined(size: int, *key: int) -> np.ndarray:
    """The order of the hashes, by NumPy's own sort."""
    return np.argsort(shuffle.hashed(np.arange(size, dtype=np.uint64) ^ np.uint64(shuffle._state(*key))))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 65_536, 65_537, 131_072, 1_000_003])
def test_a_permutation_is_the_order_of_the_hashes(size: int):
    assert np.array_equal(permutation(size, 5, 8), as_defined(size, 5, 8))


@pytest.mark.parametrize("part_bits", [1, 3, 9])
def test_a_permutation_does_not_depend_on_how_it_is_parted(part_bits: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shuffle, "_PART_BITS", part_bits)
    assert np.array_equal(permutation(10_007, 5, 8), as_defined(10_007, 5, 8))


@pytest.mark.parametrize("part_bits", [13, 16])
def test_numbers_whose_packed_hashes_are_alike_are_told_apart_by_the_whole_hash(
    part_bits: int, monkeypatch: pytest.MonkeyPatch
):
    """This hash differs among 1,024 numbers only in its last bits, for which the packed key has no room."""
    full = shuffle.hashed

    def poor(x: np.ndarray) -> np.ndarray:
        last = np.uint64(1023)
        return full(x >> np.uint64(10)) & ~last | (x ^ np.uint64(0x155)) & last  # still no two alike

    monkeypatch.setattr(shuffle, "hashed", poor)
    monkeypatch.setattr(shuffle, "_PART_BITS", part_bits)
    assert np.array_equal(permutation(16_384, 5, 8), as_defined(16_384, 5, 8))
