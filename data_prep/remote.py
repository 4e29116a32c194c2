"""How files are reached that lie elsewhere, s3:// gs:// https:// hf://; the only importer of fsspec."""

import glob
import io
from pathlib import Path
from typing import Any, BinaryIO, cast

from conf.exits import ConfigError, DatasetError

# Of all that fsspec knows; some of the others run programs, and a chain reaches into local files.
SCHEMES = ("s3", "gs", "gcs", "https", "http", "hf", "memory")
_BUFFER_BYTES = 1 << 20

# What file systems call the thing that changes when a file does, the surest first.
_VERSION_KEYS = (
    "ETag",
    "etag",
    "md5Hash",
    "blob_id",
    "checksum",
    "LastModified",
    "updated",
    "mtime",
    "created",
)


def is_remote(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path


def open_remote(path: str) -> BinaryIO:
    """Return the bytes of a URL, seekable; raise DatasetError if it cannot be read."""
    filesystem = _filesystem(path)
    try:
        # fsspec's own files cannot bound a line's length, and that is where a hostile line is stopped.
        return io.BufferedReader(cast(io.RawIOBase, filesystem.open(path, "rb")), _BUFFER_BYTES)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {_reason(error)}") from None


def list_remote(named: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the URLs that a URL, a folder (walked for `suffixes`) or a glob stands for."""
    filesystem = _filesystem(named)
    try:
        if named.startswith(("http://", "https://")):
            found = [named]
        elif glob.has_magic(named):
            found = filesystem.glob(named)
        elif filesystem.isdir(named):
            found = [path for path in filesystem.find(named) if path.endswith(suffixes)]
        else:
            found = [named] if filesystem.exists(named) else []
    except Exception as error:  # each store's library has errors of its own: httpx's, botocore's, …
        raise DatasetError(f"{named} cannot be listed: {_reason(error)}") from None
    return [path if is_remote(path) else filesystem.unstrip_protocol(path) for path in found]


def size_and_version(path: str) -> tuple[int, str]:
    """Return the bytes of a URL and what changes when it does; raise DatasetError if it tells no size."""
    filesystem = _filesystem(path)
    try:
        filesystem.invalidate_cache()
        about: dict[str, Any] = filesystem.info(path)
    except Exception as error:  # as above
        raise DatasetError(f"{path} cannot be read: {_reason(error)}") from None
    if about.get("size") is None:
        raise DatasetError(f"{path}: the server does not tell its size; download it first")
    version = next((str(about[key]) for key in _VERSION_KEYS if about.get(key) is not None), "")
    return int(about["size"]), version


def put(files: list[Path], url: str) -> None:
    """Copy the files to the folder `url`, the last of them last: who sees it sees all the others.

    Does nothing if the last one is there already. Raises DatasetError if another one of its name is.
    """
    filesystem, last = _filesystem(url), f"{url.rstrip('/')}/{files[-1].name}"
    try:
        if filesystem.exists(last):
            if filesystem.cat_file(last) == files[-1].read_bytes():
                return
            raise DatasetError(f"{last} is of another data set; choose another place")
        filesystem.makedirs(url, exist_ok=True)
        for path in files:
            target = f"{url.rstrip('/')}/{path.name}"
            filesystem.put_file(str(path), target)
            filesystem.invalidate_cache()
            if filesystem.info(target)["size"] != path.stat().st_size:
                raise DatasetError(f"{target} did not arrive whole; run the same command again")
    except OSError as error:
        raise DatasetError(f"{url} cannot be written: {_reason(error)}") from None


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


def _reason(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()
