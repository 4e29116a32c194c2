"""Whether a file of the corpus is the one that was published: its SHA-256 against a list of them.

A size and a time do not tell a copy with a flipped bit from a good one, and most formats do not either; a
list as `sha256sum` writes it does.
"""

import hashlib
import os
import re
from pathlib import Path

from conf.exits import CorruptError, DatasetError
from data_prep.remote import is_remote
from data_prep.streams import open_stored

_READ_BYTES = 1 << 20
_LINE = re.compile(rb"([0-9a-f]{64}) [ *](.+)")


def recorded_hashes(path: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a list; names in it are relative to its own folder.

    Raises DatasetError, naming the line, for what `sha256sum` does not write.
    """
    folder, _, _ = path.rpartition("/")
    hashes = {}
    try:
        with open_stored(path) as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise DatasetError(f"corpus.checksums={path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise DatasetError(f"{path}:{number} is not a line of sha256sum: 64 digits, two spaces, a name")
        name = found[2].decode("utf-8", "surrogateescape")
        place = f"{folder}/{name}" if is_remote(path) else os.path.normpath(Path(folder, name))
        hashes[place] = found[1].decode()
    return hashes


def check_hash(path: str, sha256: str) -> None:
    """Raise CorruptError unless the bytes of a file hash to `sha256`."""
    digest = hashlib.sha256()
    with open_stored(path) as file:
        while part := file.read(_READ_BYTES):
            digest.update(part)
    found = digest.hexdigest()
    if found != sha256:
        raise CorruptError(
            f"{path} has SHA-256 {found[:16]}…, corpus.checksums says {sha256[:16]}…; copy the file again"
        )
