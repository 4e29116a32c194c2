"""Where crash tests put their thousands of directories: memory where there is some, else a disk."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")


@contextmanager
def directory() -> Iterator[Path]:
    """Yield an empty private directory, and remove it at the end."""
    path = Path(tempfile.mkdtemp(prefix="faults-", dir=_MEMORY if _MEMORY.is_dir() else None)).resolve()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
