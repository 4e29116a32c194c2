"""What the C library does with memory that a step on a CPU has freed."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
# A step's arrays are smaller; what is larger, as the copy that a save takes, goes back as before. Without
# this bound a run of experiment=demo took 1.3 times the memory.
_LARGE_BYTES = 32 << 20


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for the next step asks for the same; say whether that was done.

    By default glibc returns it to the kernel at once, and each step touches it anew: 37,000 page faults in
    a step of a model of 7 million parameters, a seventh of its time. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES) and libc.mallopt(_M_TRIM_THRESHOLD, -1))
