"""Which stretches of the order of training a run passes over, and so which batch comes after which.

A stretch [begin, end) of sequence numbers is passed over by every attempt that comes to its begin, so a
run that resumes before it takes the same way round it. Stretches begin and end where batches do.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Detour(NamedTuple):
    """A stretch of the order of training that is passed over."""

    begin: int  # number of the first sequence that is not consumed
    end: int  # of the next one that is


def merged(detours: Iterable[Detour]) -> tuple[Detour, ...]:
    """Return the same sequences in as few stretches as there can be, in order."""
    found: list[Detour] = []
    for each in sorted(detours):
        if found and each.begin <= found[-1].end:
            found[-1] = Detour(found[-1].begin, max(found[-1].end, each.end))
        else:
            found.append(each)
    return tuple(found)


def landed(sequence: int, detours: Sequence[Detour]) -> int:
    """Return the first sequence from `sequence` on that is consumed; `detours` are merged."""
    for begin, end in detours:
        if begin <= sequence < end:
            return end
    return sequence


def is_left_behind(sequence: int, detours: Iterable[Detour]) -> bool:
    """Say whether a state that stands before `sequence` belongs to a way that was given up.

    Who takes the detour stands at its begin, and next behind the first batch after its end.
    """
    return any(begin < sequence <= end for begin, end in detours)
