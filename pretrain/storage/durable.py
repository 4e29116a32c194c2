"""How bytes get to disk so that they outlive a power cut, and never outside their directory.

Every path is a bare name relative to an open directory, opened with O_NOFOLLOW: a symbolic link
planted by another user is an error, not a detour. Every call that changes the disk is made here.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from conf.exits import CorruptError, RefusedError
from pretrain.storage.faults import fault_point

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
PRIVATE_UMASK = 0o077

# No leading dot: "." and ".." are no names, and dot-files are the protocol's own.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_READ_BYTES = 1 << 20
# What opening a name says when it is absent, a link, or not the kind of thing it should be.
_WRONG_KIND = {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}


def checked_name(name: str) -> str:
    """Return `name` if it is safe inside a directory; raise RefusedError otherwise."""
    if not _NAME.fullmatch(name):
        raise RefusedError(f"{name[:150]!r} is no safe file name; use 1 to 128 of A-Z a-z 0-9 . _ -")
    return name


@contextmanager
def opened_directory(path: Path | str, *, within: int | None = None) -> Iterator[int]:
    """Yield a descriptor of a directory that nobody else can write.

    Raises RefusedError for another user's directory, for one that everybody can write, and for a
    link; CorruptError where the name is absent, a link or a file `within` a directory of ours.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, dir_fd=within)
    except OSError as error:
        if within is not None and error.errno in _WRONG_KIND:
            raise CorruptError(f"{path}: missing, or not a directory of its own") from error
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise RefusedError(f"{path} is a symbolic link or not a directory; name the real one") from error
        raise
    try:
        _refuse_foreign(path, os.fstat(descriptor))
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_foreign(path: Path | str, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise RefusedError(
            f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}; use one of your own"
        )
    if status.st_mode & stat.S_IWOTH:
        raise RefusedError(f"{path} can be written by every user; run chmod o-w {path}")


@contextmanager
def naming(directory: Path) -> Iterator[None]:
    """Let what the disk refuses name the `directory`, to which the names in it are relative."""
    try:
        yield
    except OSError as error:
        what = f" ({error.filename})" if error.filename else ""
        text = f"{error.strerror or error}{what}"
        raise OSError(error.errno or errno.EIO, text, str(directory)) from error


def entries(directory: int) -> list[str]:
    """Return the names in an open directory, sorted: what walks them must do the same every time."""
    return sorted(os.listdir(directory))


def make_root(path: Path) -> None:
    """Make `path` and its missing parents, private, each of them durably; it may be there already."""
    if not path.parent.exists():
        make_root(path.parent)
    with suppress(FileExistsError):
        path.mkdir(DIRECTORY_MODE)
    # Also where it was there: whoever made it may have died before this.
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(parent)
    finally:
        os.close(parent)


def make_directory(name: str, *, within: int) -> None:
    """Make the private directory `name`; it lasts once `within` is synced."""
    os.mkdir(name, DIRECTORY_MODE, dir_fd=within)


def create_file(name: str, chunks: Iterable[bytes | memoryview], *, within: int) -> tuple[int, str]:
    """Write the new file `name` to the disk itself; return its length and SHA-256.

    The hash is that of the bytes handed in, so a disk that lies is found out by whoever reads.
    Raises FileExistsError rather than touch a file that is there.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, FILE_MODE, dir_fd=within)
    digest, length = hashlib.sha256(), 0
    try:
        fault_point("write.opened")
        for chunk in chunks:
            rest = memoryview(chunk).cast("B")
            digest.update(rest)
            length += len(rest)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
        fault_point("write.synced")
        written = os.fstat(descriptor).st_size
        if written != length:
            raise OSError(errno.EIO, f"wrote {length} bytes, the file has {written}", name)
        # The step loop has better use for the memory, and a later check then reads the disk.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return length, digest.hexdigest()


def replace_file(name: str, data: bytes, *, within: int, nonce: str) -> None:
    """Put `data` under `name` in one step: a crash leaves the old content or the new one."""
    temporary = f".tmp-{name.lstrip('.')}-{nonce}"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=within)
    create_file(temporary, [data], within=within)
    rename(temporary, name, within=within)
    sync(within)


def rename(old: str, new: str, *, within: int) -> None:
    """Give an entry of the directory another name; it lasts once `within` is synced."""
    os.rename(old, new, src_dir_fd=within, dst_dir_fd=within)


def sync(descriptor: int) -> None:
    """Return only when what was done to this directory would survive a power cut."""
    os.fsync(descriptor)


def remove_tree(name: str, *, within: int) -> None:
    """Delete `name` and everything below it, following no link; nothing happens if it is absent."""
    try:
        status = os.stat(name, dir_fd=within, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=within)
        return
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        for entry in entries(descriptor):
            remove_tree(entry, within=descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=within)


@contextmanager
def opened_file(name: str, *, within: int) -> Iterator[tuple[int, os.stat_result]]:
    """Yield a descriptor and the status of a plain file; raise CorruptError for anything else."""
    # O_NONBLOCK: opening a FIFO that was put in a file's place must not wait for its writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=within)
    except OSError as error:
        if error.errno in _WRONG_KIND:
            raise CorruptError(f"{name}: missing, or not a plain file") from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptError(f"{name}: not a plain file")
        yield descriptor, status
    finally:
        os.close(descriptor)


def read_file(name: str, *, within: int, most_bytes: int) -> bytes:
    """Return the content of a plain file; raise CorruptError if it is longer than `most_bytes`."""
    with opened_file(name, within=within) as (descriptor, status):
        if status.st_size > most_bytes:
            raise CorruptError(
                f"{name}: {status.st_size} bytes, more than the {most_bytes} that can be right"
            )
        data = b""
        while block := os.read(descriptor, most_bytes + 1 - len(data)):
            data += block
        return data


def file_digest(name: str, *, within: int, beat: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 of a plain file; `beat` is called while it is read."""
    digest = hashlib.sha256()
    with opened_file(name, within=within) as (descriptor, _):
        while block := os.read(descriptor, _READ_BYTES):
            digest.update(block)
            beat()
    return digest.hexdigest()
