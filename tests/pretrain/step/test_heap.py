"""A step on a CPU finds the memory that the one before has freed."""

import subprocess
import sys

import pytest

from pretrain.step import heap

# Pieces of 4 MB, as a step's. The C library's first threshold is 128 KiB: it would give each of them back.
PROGRAM = """
import resource, sys
import numpy as np
from pretrain.step.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def step():
    pieces = [np.ones(1 << 19) for _ in range(8)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Return how often ten steps touched memory that the process did not have."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_steps_touch_no_memory_anew():
    assert faults("kept") < 500
    assert faults("given back") > 5000, "without it, most of 8 × 1024 pages a step"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: pytest.fail("it was asked"))
    assert not heap.keep_freed_memory()
