"""How numbers are shuffled: our own arithmetic, so that no release of a library reorders a run.

NumPy may change its random streams between releases (NEP 19); a run that resumes then would silently
read other data. A permutation here is the order of the hashes of its numbers. The hash is a bijection
of 64 bits, so no two are equal, and any way to sort them gives the same permutation.
"""

import math

import numpy as np

# 2**64 / golden ratio, the increment of splitmix64: it spreads small numbers over all 64 bits.
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = 2**64 - 1

_CHUNK = 1 << 14  # hashes at a time; 128 KiB stay in a core's cache and below malloc's threshold for mmap
# Up to here the hashes of all numbers lie in memory together; beyond it, those of a half at a time.
_AT_ONCE = 1 << 20


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
    size, state = len(found), np.uint64(_state(*key))
    if size <= _AT_ONCE:
        found[:] = np.argsort(hashed(np.arange(size, dtype=np.uint64) ^ state))
        return
    done = 0
    for half in (0, 1):
        done += _sort_half(found[done:], size, state, half)
    assert done == size


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


def _sort_half(found: np.ndarray, size: int, state: np.uint64, half: int) -> int:
    """Write, in the order of their hashes, the numbers below `size` whose hash begins with the bit `half`.

    Return how many. Hash and number are sorted as one integer, in place: the hash's bits after the first,
    as many as there is room for, then the number. Where those bits are equal, as they are for a few
    among millions, the whole hash decides.
    """
    bits = np.uint64((size - 1).bit_length())
    low = (np.uint64(1) << bits) - np.uint64(1)
    keys = np.empty(min(size, size // 2 + 8 * math.isqrt(size)), np.uint64)  # 16 standard deviations
    count = 0
    for first in range(0, size, _CHUNK):
        numbers = np.arange(first, min(first + _CHUNK, size), dtype=np.uint64)
        hashes = hashed(numbers ^ state)
        mine = np.flatnonzero((hashes.view(np.int64) < 0) == half)
        packed = keys[count : count + len(mine)]
        hashes.take(mine, out=packed, mode="clip")
        packed <<= np.uint64(1)
        packed &= ~low
        packed |= numbers.take(mine, mode="clip")
        count += len(mine)
    keys = keys[:count]
    keys.sort()
    for first in range(0, count, _CHUNK):
        found[first : first + _CHUNK][: count - first] = keys[first : first + _CHUNK] & low
    keys >>= bits
    for first, last in _runs(np.flatnonzero(keys[1:] == keys[:-1])):
        run = found[first : last + 1]
        run[:] = run[np.argsort(hashed(run.astype(np.uint64) ^ state))]
    return count


def _runs(alike: np.ndarray) -> list[tuple[int, int]]:
    """Return (first, last) of each run of equal neighbours, given where one equals the next."""
    runs: list[tuple[int, int]] = []
    for place in alike.tolist():
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs
