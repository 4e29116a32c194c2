"""Which files a corpus is: paths, folders and globs, turned into one sorted list."""

import glob
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from conf.exits import ConfigError, DatasetError
from data_prep.checksums import recorded_hashes
from data_prep.remote import is_remote, list_remote, size_and_version
from data_prep.streams import COMPRESSIONS, compression_of

KINDS = ("text", "jsonl", "json", "parquet")
ERRORS = ("strict", "replace", "drop")
# The running interpreter's own library: a corpus that every machine has.
STANDARD_LIBRARY = "python:stdlib"
# A name that ends a walk into a folder: no text of the corpus's own lies below.
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "node_modules"}


@dataclass(frozen=True)
class CorpusConfig:
    """What the corpus is and how its text is found in its files."""

    kind: str  # a document is: text: a file; jsonl: a line; json: an item of an array; parquet: a row
    paths: list[str]  # files, folders (walked for `suffixes`) and globs
    suffixes: list[str] = field(default_factory=list)
    text_key: str = "text"  # the JSON key or the Parquet column that holds the text
    document_start: str | None = None  # Parquet whose rows are lines: a row that matches begins a document
    expected_documents: int | None = None  # what the corpus is known to hold; another number is reported
    expected_tokens: int | None = None  # likewise, end-of-text included
    checksums: str | None = None  # a list as sha256sum writes it: each file must be in it, and be as it says
    errors: str = "strict"  # text that is not UTF-8: refuse it, replace by U+FFFD, or drop the document
    name: str | None = None  # what the index calls it: a preset's own, or one that you give

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"corpus.kind={self.kind} is not known; choose one of: {', '.join(KINDS)}")
        if self.errors not in ERRORS:
            raise ConfigError(f"corpus.errors={self.errors} is not known; choose one of: {', '.join(ERRORS)}")
        if not self.paths:
            raise ConfigError("corpus.paths is empty; add corpus.paths=[FILE_OR_FOLDER_OR_GLOB,…]")


@dataclass(frozen=True)
class Input:
    """One file of the corpus, as it was when the work was planned."""

    path: str
    bytes: int
    version: str  # changes when the file does: the time of modification, or the store's own tag
    sha256: str = ""  # what corpus.checksums says of it, if it is set


def list_inputs(corpus: CorpusConfig) -> list[Input]:
    """Return the corpus's files in the order of their paths, each once.

    Raises DatasetError, naming the path, for one that does not exist, matches nothing, or is not in
    corpus.checksums.
    """
    paths = sorted({path for named in corpus.paths for path in _expanded(named, corpus.suffixes)})
    if corpus.checksums is None:
        return [_input(path) for path in paths]
    hashes = recorded_hashes(absolute(corpus.checksums))
    if unknown := [path for path in paths if path not in hashes]:
        raise DatasetError(
            f"{unknown[0]} is not in corpus.checksums={corpus.checksums}; add it, or leave it out"
        )
    return [replace(_input(path), sha256=hashes[path]) for path in paths]


def absolute(path: str) -> str:
    """Return a local path as every task sees it, whatever its working directory; a URL as it is."""
    if is_remote(path):
        return path
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100  resolve() would follow links


def check_unchanged(known: Input) -> None:
    """Raise DatasetError if a file is not what it was when the work was planned."""
    try:
        now = _input(known.path)
    except OSError:
        raise DatasetError(f"{known.path} is gone since the work was planned; put it back") from None
    if (now.bytes, now.version) != (known.bytes, known.version):
        raise DatasetError(
            f"{known.path} changed since the work was planned ({known.bytes} bytes then, {now.bytes} now); "
            "put the old file back, or prepare into another output"
        )


def _expanded(named: str, suffixes: list[str]) -> list[str]:
    """Return the absolute paths of the files that one entry of corpus.paths stands for."""
    if named == STANDARD_LIBRARY:
        return list(_walk(sysconfig.get_path("stdlib"), suffixes))
    if is_remote(named):
        return _remote(named, suffixes)
    path = Path(absolute(named))
    if path.is_dir():
        found = list(_walk(str(path), suffixes))
        if not found:
            raise DatasetError(
                f"{path} holds no file ending in {' '.join(suffixes)}; name the files or use a glob"
            )
        return found
    if path.exists():
        return [str(path)]
    if not glob.has_magic(named):
        raise DatasetError(f"{named} does not exist")
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  Path.glob wants a folder to start from
    found = [file for match in matches for file in _files(match, suffixes)]
    if not found:
        raise DatasetError(f"{named} matches no file")
    return found


def _remote(named: str, suffixes: list[str]) -> list[str]:
    packed = (suffix + ending for suffix in suffixes for ending in COMPRESSIONS)
    found = list_remote(named, (*suffixes, *packed))
    if not found:
        raise DatasetError(f"{named} does not exist, or holds no file ending in {' '.join(suffixes)}")
    return found


def _files(path: str, suffixes: list[str]) -> Iterator[str]:
    if Path(path).is_dir():
        yield from _walk(path, suffixes)
    else:
        yield path


def _walk(folder: str, suffixes: list[str]) -> Iterator[str]:
    """Yield the files below `folder` that end in one of the suffixes; hidden ones are passed over."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(".")]
        for name in names:
            if _stem(name).endswith(tuple(suffixes)) and not name.startswith("."):
                yield str(Path(parent, name))


def _stem(name: str) -> str:
    """Return a file's name without the ending of its compression."""
    return name if compression_of(name) is None else name.rpartition(".")[0]


def _input(path: str) -> Input:
    if is_remote(path):
        return Input(path, *size_and_version(path))
    status = Path(path).stat()
    return Input(path, status.st_size, str(status.st_mtime_ns))
