"""How files are reached that lie elsewhere, s3:// gs:// https:// hf://; the only importer of fsspec."""

import glob
import io
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, cast

from conf.exits import ConfigError, DatasetError, UserError

# Of all that fsspec knows; some of the others run programs, and a chain reaches into local files.
SCHEMES = ("s3", "gs", "gcs", "https", "http", "hf", "memory")
_BUFFER_BYTES = 1 << 20
# Stores without folders: making one would make the bucket, and a mistyped name is no wish for a bucket.
_BUCKETS = {"s3", "gs", "gcs"}

# Answers in the 400s that mean "not now".
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
# What file systems call the thing that changes when a file does, the surest first.
_VERSION_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "blob_id",
    "checksum",
    "Content-MD5",
    "Digest",
    "LastModified",
    "Last-Modified",
    "updated",
    "mtime",
    "created",
)


def is_remote(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path


def open_remote(path: str) -> BinaryIO:
    """Return the bytes of a URL, seekable; opening and reading raise DatasetError if it cannot be read."""
    filesystem = _filesystem(path)
    with _one_line(f"{path} cannot be read"):
        # fsspec's own files cannot bound a line's length, and that is where a hostile line is stopped.
        return cast(BinaryIO, io.BufferedReader(_Remote(path, filesystem.open(path, "rb")), _BUFFER_BYTES))


def list_remote(named: str) -> list[tuple[str, bool]]:
    """Return the files that a URL, a folder or a glob stands for.

    Each with whether it was named, or matched, itself; the others lie in folders that were.
    """
    filesystem = _filesystem(named)
    with _one_line(f"{named} cannot be listed"):
        if named.startswith(("http://", "https://")):
            return [(named, True)]
        if glob.has_magic(named):
            matches: dict[str, dict[str, Any]] = filesystem.glob(named, detail=True)
            folders = [path for path, about in matches.items() if about["type"] == "directory"]
            found = [(path, True) for path in matches if path not in folders]
        else:
            folders = [named] if filesystem.isdir(named) else []
            found = [(named, True)] if not folders and filesystem.exists(named) else []
        for folder in folders:  # some stores list a folder as an object that ends in /
            found += [(path, False) for path in filesystem.find(folder) if not path.endswith("/")]
    return [(path if is_remote(path) else filesystem.unstrip_protocol(path), own) for path, own in found]


def size_and_version(path: str) -> tuple[int, str]:
    """Return the bytes of a URL and what changes when it does; raise DatasetError if it tells no size."""
    filesystem = _filesystem(path)
    with _one_line(f"{path} cannot be read"):
        filesystem.invalidate_cache()
        about: dict[str, Any] = filesystem.info(path)
    if about.get("size") is None:
        raise DatasetError(f"{path}: the server does not tell its size; download it first")
    version = next((str(about[key]) for key in _VERSION_KEYS if about.get(key) is not None), "")
    return int(about["size"]), version


def read_whole(path: str) -> bytes:
    """Return the content of a URL; raise DatasetError if it cannot be read."""
    filesystem = _filesystem(path)
    try:
        return filesystem.cat_file(path)
    except FileNotFoundError:
        raise DatasetError(
            f"{path} does not exist; make it with data_prep.prepare and data_prep.finalize"
        ) from None
    except Exception as error:  # each client library has exceptions of its own
        raise DatasetError(f"{path} cannot be read: {_reason(error)}") from None


def read_range(path: str, offset: int, length: int, *, timeout: float) -> bytes:
    """Return `length` bytes of a URL, fewer only where it ends, by one request of at most `timeout` seconds.

    Raises DatasetError for what no second try would mend: it is missing, may not be read, or the server
    does not know ranges. Raises whatever its client library does for the rest.
    """
    filesystem = _filesystem(path)
    try:
        if filesystem.async_impl:
            part = {"start": offset, "end": offset + length}
            content = _sync(filesystem, filesystem._cat_file, path, **part, timeout=timeout)
        else:
            content = filesystem.cat_file(path, start=offset, end=offset + length)
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing, though the index lists it; copy it again") from None
    except PermissionError as error:
        raise DatasetError(f"{path} may not be read: {_reason(error)}") from None
    except Exception as error:
        if (status := getattr(error, "status", 0)) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""  # the file ends before
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _PASSING:
            raise DatasetError(f"{path} cannot be read: {_reason(error)}") from None
        raise
    if len(content) > length:
        raise DatasetError(
            f"{path}: the server answers a range with the whole file; use one that knows ranges"
        )
    return content


def check_put(url: str) -> None:
    """Raise ConfigError for a place that `put` cannot have, as far as can be told without asking a server."""
    if "://" not in url:
        raise ConfigError(f"put={url[:80]} is not a URL; use {'://…, '.join(SCHEMES[:-1])}://…")
    _filesystem(url)


def put(files: list[Path], url: str) -> None:
    """Copy the files to the folder `url`, the last of them last: who sees it sees all the others.

    If the last one is there already, so are the others; those that went missing or are of another size are
    copied again. Raises DatasetError if another one of its name is there.
    """
    filesystem, last = _filesystem(url), f"{url.rstrip('/')}/{files[-1].name}"
    with _one_line(f"{url} cannot be written"):
        if filesystem.exists(last):
            if filesystem.cat_file(last) != files[-1].read_bytes():
                raise DatasetError(f"{last} is of another data set; choose another place")
            filesystem.invalidate_cache()
            sizes = {
                Path(path).name: about["size"] for path, about in filesystem.find(url, detail=True).items()
            }
            files = [path for path in files if sizes.get(path.name) != path.stat().st_size]
        if url.partition("://")[0] not in _BUCKETS:
            filesystem.makedirs(url, exist_ok=True)
        for path in files:
            target = f"{url.rstrip('/')}/{path.name}"
            filesystem.put_file(str(path), target)
            filesystem.invalidate_cache()
            if filesystem.info(target)["size"] != path.stat().st_size:
                raise DatasetError(f"{target} did not arrive whole; run the same command again")


class _Remote(io.RawIOBase):
    """A file of fsspec's whose errors are one line."""

    def __init__(self, path: str, file: Any):
        self._path, self._file = path, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        with _one_line(f"{self._path} cannot be read"):
            part = self._file.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Raise DatasetError, saying what did not work, for any error of the library behind a URL."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # botocore, aiohttp, httpx: each has errors of its own that are no OSError
        raise DatasetError(f"{what}: {_reason(error)}") from None


def _filesystem(path: str) -> Any:
    """Return the fsspec file system of a URL.

    Raises ConfigError for a scheme other than SCHEMES, a chain of them, and one whose library is missing.
    """
    scheme, _, rest = path.partition("://")
    if scheme not in SCHEMES or "::" in rest:
        raise ConfigError(
            f"cannot open {scheme[:40]}:// paths; use {', '.join(SCHEMES[:-1])}, or copy the files"
        )
    try:
        import fsspec  # noqa: PLC0415  local corpora need no remote library

        return fsspec.url_to_fs(path)[0]
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot open {scheme}:// paths: {error}; install the library for it") from None


def _sync(filesystem: Any, call: Any, path: str, **settings: Any) -> bytes:
    """Return what an asynchronous file system's `call` reads, on fsspec's own thread."""
    from fsspec.asyn import sync  # noqa: PLC0415  local corpora need no remote library

    content = sync(filesystem.loop, call, path, **settings)
    assert isinstance(content, bytes)
    return content


def _reason(error: Exception) -> str:
    """Return what an error says, on one line."""
    return " ".join(f"{type(error).__name__} {error}".split())
