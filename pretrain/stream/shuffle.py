"""How numbers are shuffled: our own arithmetic, so that no release of a library reorders a run.

NumPy may change its random streams between releases (NEP 19); a run that resumes then would silently
read other data. A permutation here is the order of the hashes of its numbers. The hash is a bijection
of 64 bits, so no two are equal, and any way to sort them gives the same permutation.
"""

from itertools import pairwise

import numpy as np

# 2**64 / golden ratio, the increment of splitmix64: it spreads small numbers over all 64 bits.
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1

_PART_BITS = 15  # of the number of hashes put in order together: a core's cache holds them
_SHARE = 256  # hashes of each part that are dealt out together, about: a megabyte for 16 million numbers
_ROW = 64  # hashes are sorted in registers when they are so few: 2 ns each on a Zen 4, not 60


def permutation(size: int, *key: int) -> np.ndarray:
    """Return a permutation of range(size), int32 (size,), that depends on the integers of `key` alone."""
    found = np.empty(size, np.int32)
    shuffle_into(found, *key)
    return found


def permutations(size: int, seed: int, epoch: int, blocks: np.ndarray, purpose: int) -> np.ndarray:
    """Return permutation(size, seed, epoch, block, purpose) for each of `blocks`: (blocks, size)."""
    state = np.uint64(_state(seed, epoch))
    states = hashed(hashed(state ^ blocks.astype(np.uint64)) ^ np.uint64(purpose))
    return np.argsort(hashed(np.arange(size, dtype=np.uint64) ^ states[:, None]), axis=1)


def shuffle_into(found: np.ndarray, *key: int) -> None:
    """Fill `found`, int32, with the permutation that `permutation` would return."""
    state = np.uint64(_state(*key))
    bits = max(0, (len(found) - 1).bit_length() - _PART_BITS)
    for first, last in pairwise(_dealt_into(found, state, bits)):
        part = found[first:last]
        part[:] = part[_argsort(hashed(part.astype(np.uint64) ^ state), bits)]


def hashed(x: np.ndarray) -> np.ndarray:
    """Hash uint64 of any shape (splitmix64; Steele, Lea & Flood, OOPSLA 2014)."""
    x = x + np.uint64(_GOLDEN)
    x = (x ^ x >> np.uint64(30)) * np.uint64(_FIRST)
    x = (x ^ x >> np.uint64(27)) * np.uint64(_SECOND)
    return x ^ x >> np.uint64(31)


def _state(*key: int) -> int:
    """Return the hash of some integers."""
    state = 0
    for part in key:
        x = ((state ^ part) + _GOLDEN) & _MASK
        x = (x ^ x >> 30) * _FIRST & _MASK
        x = (x ^ x >> 27) * _SECOND & _MASK
        state = x ^ x >> 31
    return state


def _dealt_into(found: np.ndarray, state: np.uint64, bits: int) -> list[int]:
    """Fill `found` with all numbers, those first whose hashes have the lowest first `bits`, and so on.

    Return where the part of each value of those bits begins, and last the end.
    """
    size = len(found)
    if not bits:
        found[:] = np.arange(size)
        return [0, size]

    chunk = _SHARE << bits

    def values(first: int) -> np.ndarray:
        hashes = hashed(np.arange(first, min(first + chunk, size), dtype=np.uint64) ^ state)
        return (hashes >> np.uint64(64 - bits)).astype(np.uint16)

    counts = sum(np.bincount(values(first), minlength=1 << bits) for first in range(0, size, chunk))
    begins = [0, *np.cumsum(counts).tolist()]
    ends = begins[:-1]
    for first in range(0, size, chunk):
        dealt = values(first)
        numbers = np.argsort(dealt, kind="stable").astype(np.int32)
        numbers += first
        done = 0
        for value, count in enumerate(np.bincount(dealt, minlength=1 << bits).tolist()):
            found[ends[value] : ends[value] + count] = numbers[done : done + count]
            ends[value] += count
            done += count
    return begins


def _argsort(hashes: np.ndarray, bits: int) -> np.ndarray:
    """Return np.argsort(hashes), sooner, of hashes whose first `bits` are alike: int32, as long as they.

    Hash and place are sorted as one integer: the hash's bits after those, as many as there is room for, then
    the place. Being hashes they are spread evenly, so that their first bits part them into short rows.
    """
    place_bits = np.uint64(max(1, (len(hashes) - 1).bit_length()))
    low = (np.uint64(1) << place_bits) - np.uint64(1)
    keys = hashes << np.uint64(bits) & ~low | np.arange(len(hashes), dtype=np.uint64)
    if row_bits := (len(hashes) // _ROW).bit_length():
        row = (keys >> np.uint64(64 - row_bits)).astype(np.uint16)
        counts = np.bincount(row, minlength=1 << row_bits)
        inside = np.arange(counts.max()) < counts[:, None]
        rows = np.full(inside.shape, _MASK, np.uint64)
        rows[inside] = keys[np.argsort(row, kind="stable")]
        rows.sort(axis=1)
        keys = rows[inside]
    else:
        keys.sort()
    order = (keys & low).astype(np.int32)
    keys >>= place_bits
    if (keys[1:] == keys[:-1]).any():  # about one time in a million; there the whole hash decides
        return np.argsort(hashes)
    return order
