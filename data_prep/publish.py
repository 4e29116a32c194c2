"""How a file comes to exist: whole and on disk under its name, or not at all."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from conf.exits import ConfigError

TEMPORARY = ".tmp"


def publish(path: Path, content: bytes) -> None:
    """Put `content` at `path`: a reader at any instant sees the old file or the new one, whole."""
    with replacing(path) as file:
        file.write(content)


def publish_page(path: Path, text: str) -> Path:
    """Put what a person asked for at `path`, its folders made where there are none; return where it is.

    Raises ConfigError if `path` is a directory, and OSError, naming `path` or a folder above it.
    """
    path = path.expanduser().resolve()
    if path.is_dir():
        raise ConfigError(f"{path} is a directory; name a file in it, such as {path / 'page.html'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        publish(path, text.encode())
    except OSError as error:  # of a temporary name beside it
        raise OSError(error.errno, error.strerror, str(path)) from error
    return path


@contextmanager
def replacing(path: Path, *, scratch: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a temporary file that becomes `path`, durably, if the block ends without an error.

    The temporary file lies in `scratch` (the target's folder by default), which must be on the same file
    system. A crash leaves at most a `*.tmp` file there.
    """
    folder = scratch or path.parent
    temporary = folder / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def publish_once(path: Path, content: bytes) -> bytes:
    """Put `content` at `path` unless a file is there already; return what is there now.

    Of any number of processes that try at once, one wins and all return its content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")
    publish(temporary, content)
    try:
        os.link(temporary, path)
        sync_directory(path.parent)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
            raise
        temporary.replace(path)  # a file system without hard links: the last writer wins
    finally:
        temporary.unlink(missing_ok=True)
    return path.read_bytes()


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_exactly(descriptor: int, length: int, offset: int) -> bytearray:
    """Return up to `length` bytes at `offset`: fewer only where the file ends."""
    # What an index claims is not to be reserved before the file is known to be so long.
    content = bytearray(min(length, max(0, os.fstat(descriptor).st_size - offset)))
    view, done = memoryview(content), 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            break
        done += count
    view.release()
    del content[done:]
    return content
