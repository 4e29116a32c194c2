"""How much room is left for what a run will save."""

import shutil
from pathlib import Path

from pretrain.storage.retention import BYTES_PER_PARAMETER

_GIB = 2**30


def room(directory: Path, parameters: int) -> dict[str, float]:
    """Return the free GiB where `directory` lies, and how many checkpoints they hold; {} if nobody says."""
    try:
        free = shutil.disk_usage(directory).free
    except OSError:
        return {}
    return {"disk/free_gib": free / _GIB, "disk/room_checkpoints": free / (parameters * BYTES_PER_PARAMETER)}
