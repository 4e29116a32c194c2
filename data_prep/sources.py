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
from data_prep.streams import compression_of

KINDS = ("text", "jsonl", "json", "parquet")
ERRORS = ("strict", "replace", "drop")
# The running interpreter's own library: a corpus that every machine has.
STANDARD_LIBRARY = "python:stdlib"
# A name that ends a walk into a folder: no text of the corpus's own lies below.
_SKIPPED_FOLDERS = {"__pycache__", "site-packages", "dist-packages", "node_modules"}

_Found = tuple[str, bool]  # the absolute path of a file, and whether it is of the corpus


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


@dataclass(frozen=True)
class Listing:
    """What lies where corpus.paths points."""

    inputs: list[Input]  # the corpus's files in the order of their paths, each once
    left_out: list[str]  # what a folder holds beside them: hidden, or with another ending; folders end in /


def list_corpus(corpus: CorpusConfig) -> Listing:
    """Return the files of the corpus, and what was passed over in its folders.

    Raises DatasetError, naming the path, for one that does not exist, matches nothing, cannot be read, or
    is not in corpus.checksums.
    """
    try:
        found = {pair for named in corpus.paths for pair in _expanded(named, corpus.suffixes)}
        taken = sorted(path for path, wanted in found if wanted)
        inputs = [_input(path) for path in taken]
    except OSError as error:
        raise DatasetError(
            f"{error.filename} cannot be read: {error.strerror}; mend that, or leave it out of corpus.paths"
        ) from None
    left_out = sorted({path for path, wanted in found if not wanted}.difference(taken))
    if corpus.checksums is None:
        return Listing(inputs, left_out)
    hashes = recorded_hashes(absolute(corpus.checksums))
    if unknown := [path for path in taken if path not in hashes]:
        raise DatasetError(
            f"{unknown[0]} is not in corpus.checksums={corpus.checksums}; add it, or leave it out"
        )
    return Listing([replace(known, sha256=hashes[known.path]) for known in inputs], left_out)


def list_inputs(corpus: CorpusConfig) -> list[Input]:
    """Return the files of the corpus; raises what `list_corpus` does."""
    return list_corpus(corpus).inputs


def absolute(path: str) -> str:
    """Return a local path as every task sees it, whatever its working directory; a URL as it is."""
    if is_remote(path):
        return path
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100  resolve() would follow links


def check_unchanged(known: Input) -> None:
    """Raise DatasetError if a file is not what it was when the work was planned."""
    try:
        now = _input(known.path)
    except FileNotFoundError:
        raise DatasetError(f"{known.path} is gone since the work was planned; put it back") from None
    except OSError as error:
        raise DatasetError(f"{known.path} cannot be read: {error.strerror}; mend that") from None
    if (now.bytes, now.version) != (known.bytes, known.version):
        raise DatasetError(
            f"{known.path} changed since the work was planned ({known.bytes} bytes then, {now.bytes} now); "
            "put the old file back, or prepare into another output"
        )


def _expanded(named: str, suffixes: list[str]) -> list[_Found]:
    """Return what one entry of corpus.paths stands for; raise DatasetError if that is no file."""
    if named == STANDARD_LIBRARY:
        return list(_walk(sysconfig.get_path("stdlib"), suffixes))
    path, endings = Path(absolute(named)), " ".join(suffixes)
    if is_remote(named):
        found = [(url, itself or _wanted(url, suffixes)) for url, itself in list_remote(named)]
        missing = f"does not exist, or holds no file ending in {endings}"
    elif path.is_dir():
        found = list(_walk(str(path), suffixes))
        missing = f"holds no file ending in {endings}; name the files or use a glob"
    elif path.exists() or not glob.has_magic(named):
        found, missing = [(str(path), path.exists())], "does not exist"
    else:
        _require_readable_folders(path)
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207  Path.glob wants a folder to start from
        found, missing = [pair for match in matches for pair in _matched(match, suffixes)], "matches no file"
    if not any(wanted for _, wanted in found):
        raise DatasetError(f"{named} {missing}")
    return found


def _matched(path: str, suffixes: list[str]) -> Iterator[_Found]:
    if Path(path).is_dir():
        yield from _walk(path, suffixes)
    else:
        yield path, True


def _require_readable_folders(pattern: Path) -> None:
    """Raise OSError if a folder in which a glob looks cannot be read: `glob` itself passes it over."""
    parts = pattern.parts
    for depth in range(1, len(parts)):
        if glob.has_magic(parts[depth]):
            for folder in glob.glob(f"{Path(*parts[:depth])}/", recursive=True):  # noqa: PTH207  as above
                os.scandir(folder).close()


def _walk(folder: str, suffixes: list[str]) -> Iterator[_Found]:
    """Yield what lies below `folder`, through links to folders too; each folder is walked once.

    Links come after all that needs none, so a file is found under its own name if that is below `folder`.
    """
    walked: set[tuple[int, int]] = set()
    tops = [folder]
    while tops:
        links: list[str] = []
        for top in tops:
            for parent, folders, names in os.walk(top, onerror=_raise):
                status = Path(parent).stat()
                if (status.st_dev, status.st_ino) in walked:  # by another link, or a link to where we are
                    folders.clear()
                    continue
                walked.add((status.st_dev, status.st_ino))
                passed = {name for name in folders if name in _SKIPPED_FOLDERS or name.startswith(".")}
                folders[:] = [name for name in folders if name not in passed]
                links += [found for name in folders if Path(found := f"{parent}/{name}").is_symlink()]
                yield from ((f"{Path(parent, name)}/", False) for name in passed)
                yield from ((str(Path(parent, name)), _wanted(name, suffixes)) for name in names)
        tops = sorted(links)


def _raise(error: OSError) -> None:
    raise error


def _wanted(path: str, suffixes: list[str]) -> bool:
    """Return whether a file in a folder is of the corpus: it ends as asked and is not hidden."""
    name = path.rpartition("/")[2]
    return not name.startswith(".") and _stem(name.lower()).endswith(tuple(map(str.lower, suffixes)))


def _stem(name: str) -> str:
    """Return a file's name without the ending of its compression."""
    return name if compression_of(name) is None else name.rpartition(".")[0]


def _input(path: str) -> Input:
    if is_remote(path):
        return Input(path, *size_and_version(path))
    status = Path(path).stat()
    return Input(path, status.st_size, str(status.st_mtime_ns))
