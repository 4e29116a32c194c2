"""Whether the disk holds what is to come; asked before the work starts, not when it fails."""

import shutil
from pathlib import Path

from conf.exits import Exit, UserError

# Text is at worst 2 bytes per GPT-2 token where tools write it for people (Python code: 2.1; prose: 4), and a
# token is 2 bytes on disk. Prediction takes the middle.
_STORED_PER_TEXT_BYTE = 0.6


class NoSpaceError(UserError):
    """The disk has less free space than the work needs."""

    code = Exit.DISK


def predicted_bytes(text_bytes: int) -> int:
    """Return about how many bytes the tokens of so much text take on disk."""
    return round(text_bytes * _STORED_PER_TEXT_BYTE)


def require_space(folder: Path, needed: int, what: str) -> int:
    """Return the free bytes of the disk of `folder`; raise NoSpaceError if they are fewer than `needed`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoSpaceError(
            f"{folder} has {free / 1e9:.1f} GB free, {what} need about {needed / 1e9:.1f} GB; "
            "free space or choose another output"
        )
    return free
