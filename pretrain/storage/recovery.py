"""Which checkpoint a run goes on from: the newest whose every byte is what its manifest says.

Nothing here trusts a date or the `latest` hint, and nothing is deleted: what does not hold is moved
aside with the reason beside it.
"""

import errno
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conf.exits import ConfigError, CorruptError, DatasetError, NoCheckpointError
from pretrain.storage import durable
from pretrain.storage.faults import fault_point
from pretrain.storage.manifest import (
    LATEST,
    MANIFEST_MOST_BYTES,
    MANIFEST_NAME,
    Checkpoint,
    Manifest,
    decode,
    step_name,
    step_of,
)

BAD, DELETED, SUPERSEDED, TEMPORARY = ".bad-", ".del-", ".old-", ".tmp-"

# The storage did not answer: the bytes may be good at the next start, so nothing is moved aside.
_UNREADABLE = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.EPERM}


class ForeignCheckpointError(CorruptError):
    """A sound checkpoint of another run: passed over, and not ours to move."""


@dataclass(frozen=True)
class Candidate:
    """A directory that claims to be a checkpoint: its manifest, or why it has none."""

    name: str
    manifest: Manifest | None
    error: Exception | None = None

    @property
    def age(self) -> tuple[bool, int, int]:
        """Newest is largest. The fence counts before the step: a later trainer knew better.

        What has no manifest comes first, so that it is reported.
        """
        if self.manifest is None:
            return True, 0, step_of(self.name) or 0
        return False, self.manifest.fence, self.manifest.step


def candidates(root: Path) -> list[Candidate]:
    """Return everything in `root` that is named like a checkpoint, newest first."""
    try:
        with durable.opened_directory(root) as directory:
            names = durable.entries(directory)
            found = [_candidate(name, directory) for name in names if step_of(name) is not None]
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda each: each.age, reverse=True)


def checkpoints(root: Path) -> list[Path]:
    """Return the committed checkpoints, newest first, judged by their manifests alone."""
    return [Path(root) / each.name for each in candidates(root) if each.manifest]


def highest_fence(root: Path) -> int:
    """Return the largest fence of any checkpoint in `root`; 0 if there is none."""
    return max((each.manifest.fence for each in candidates(root) if each.manifest), default=0)


def digests(path: Path, names: Sequence[str], beat: Callable[[], None] = lambda: None) -> dict[str, str]:
    """Return the SHA-256 of these files of a checkpoint; `beat` is called while they are read."""
    with durable.opened_directory(path) as directory:
        return {name: durable.file_digest(name, within=directory, beat=beat) for name in names}


# Who reads and hashes all files of a checkpoint: this process, or several that share them.
Hashing = Callable[[Path, Sequence[str]], Mapping[str, str]]

# What has been read back: path → the state of its files before that. A checkpoint is read once, not at
# every prune: that would be seconds per gigabyte.
_read_back: dict[Path, tuple[object, ...]] = {}


def verify(path: Path, hashing: Hashing = digests) -> Manifest:
    """Return the manifest of a checkpoint after reading and hashing all of it.

    Raises CorruptError, naming the first file that differs.
    """
    path = Path(path)
    with (
        durable.opened_directory(path.parent) as root,
        durable.opened_directory(path.name, within=root) as directory,
    ):
        manifest = _read_manifest(path.name, directory)
        check_files(manifest, directory)
        before = _state(path)
        found = hashing(path, [record.name for record in manifest.files])
        for record in manifest.files:
            if found[record.name] != record.sha256:
                raise CorruptError(f"{record.name}: its SHA-256 is not the recorded one")
        _read_back[path] = before
        return manifest


def is_whole(path: Path) -> bool:
    """Say whether every byte of a checkpoint is right; what has been verified and not touched is."""
    with suppress(CorruptError, OSError):
        if _read_back.get(path) != _state(path):
            verify(path)
        return True
    return False


def _state(path: Path) -> tuple[object, ...]:
    """Return what changes whenever any file of the checkpoint does (ctime cannot be set back)."""
    files = sorted(path.iterdir())
    return tuple((each.name, *_identity(each)) for each in files)


def _identity(file: Path) -> tuple[int, ...]:
    status = file.lstat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_files(manifest: Manifest, directory: int) -> None:
    """Raise CorruptError unless `directory` holds just the manifest's files, at their sizes."""
    present = set(durable.entries(directory)) - {MANIFEST_NAME}
    recorded = {record.name for record in manifest.files}
    if present != recorded:
        missing, extra = sorted(recorded - present)[:3], sorted(present - recorded)[:3]
        raise CorruptError(f"missing files {missing}, unknown files {extra}")
    for record in manifest.files:
        with durable.opened_file(record.name, within=directory) as (_, status):
            if status.st_size != record.bytes:
                raise CorruptError(f"{record.name}: {status.st_size} bytes, {record.bytes} recorded")


def newest_valid(
    root: Path,
    *,
    run_id: str | None = None,
    config_sha256: str | None = None,
    dataset_fingerprint: str | None = None,
    on_rejected: Callable[[Path, str], None] = lambda path, reason: None,
    repair: bool = True,
    hashing: Hashing = digests,
) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None in a directory that has never had one.

    A None for `run_id` or a fingerprint leaves it uncompared. Whatever is passed over is reported
    through `on_rejected(path, reason)`, and renamed to `.bad-…` if it is damaged. With
    `repair=False`, for readers who do not hold the lease, nothing on disk changes.

    Raises:
        NoCheckpointError: There have been checkpoints, and none of them is valid.
        ConfigError: The newest was written under another configuration.
        DatasetError: The newest was trained on other data.
    """
    root = Path(root)
    if repair:
        _settle(root)
    reasons: list[str] = []
    for candidate in candidates(root):
        try:
            _refuse_other(root, candidate, run_id, config_sha256, dataset_fingerprint)
            manifest = verify(root / candidate.name, hashing)
        except (CorruptError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _UNREADABLE:
                raise
            if repair and not isinstance(error, OSError | ForeignCheckpointError):
                _quarantine(root, candidate.name, str(error))
            reasons.append(f"{candidate.name}: {error}")
            on_rejected(root / candidate.name, str(error))
        else:
            return Checkpoint(root / candidate.name, manifest)
    if reasons or _has_trained(root):
        raise NoCheckpointError(
            f"{root}: no valid checkpoint is left ({'; '.join(reasons[:3]) or 'all are gone'}); "
            "restore one from a copy, or begin anew in another run_dir"
        )
    return None


def remove_leftovers(directory: int) -> None:
    """Delete what dead saves and prunes left in `directory`; the caller holds the lease."""
    present = durable.entries(directory)
    for name in present:
        if name.startswith((TEMPORARY, DELETED)) or _superseded_name(name) in present:
            # On NFS a file that somebody still reads cannot go; the next save tries again.
            with suppress(OSError):
                durable.remove_tree(name, within=directory)


def _superseded_name(name: str) -> str | None:
    """Return the checkpoint name that a set-aside directory had before, or None if it is not one."""
    found = re.fullmatch(rf"{re.escape(SUPERSEDED)}(step-[0-9]+)-[^/]+", name)
    return found[1] if found else None


def _candidate(name: str, root: int) -> Candidate:
    try:
        with durable.opened_directory(name, within=root) as directory:
            return Candidate(name, _read_manifest(name, directory))
    except (CorruptError, OSError) as error:
        return Candidate(name, None, error)


def _read_manifest(name: str, directory: int) -> Manifest:
    """Return the manifest inside the checkpoint `name`; raise CorruptError if it is another's."""
    data = durable.read_file(MANIFEST_NAME, within=directory, most_bytes=MANIFEST_MOST_BYTES)
    manifest = decode(data)
    if name != step_name(manifest.step):
        raise CorruptError(f"{MANIFEST_NAME}: says step {manifest.step}, the directory is {name}")
    return manifest


def _refuse_other(
    root: Path, candidate: Candidate, run_id: str | None, config: str | None, dataset: str | None
) -> None:
    """Raise unless the candidate's manifest is this run's."""
    if candidate.manifest is None:
        raise candidate.error or AssertionError("a candidate has a manifest or an error")
    manifest, name = candidate.manifest, candidate.name
    if run_id is not None and manifest.run_id != run_id:
        raise ForeignCheckpointError(f"belongs to run {manifest.run_id!r}, this is {run_id!r}")
    if config is not None and manifest.config_sha256 != config:
        raise ConfigError(
            f"{root / name} was written under configuration {manifest.config_sha256}, this run has {config}; "
            "use the run's own configuration or another run_dir"
        )
    if dataset is not None and manifest.dataset_fingerprint != dataset:
        raise DatasetError(
            f"{root / name} comes from data set {manifest.dataset_fingerprint}, this run reads {dataset}; "
            "point data.index at the run's own data or use another run_dir"
        )


def _quarantine(root: Path, name: str, reason: str) -> None:
    """Move a damaged checkpoint aside, if that can be done."""
    # Going on matters more: what cannot be moved now is passed over again at the next start.
    with suppress(OSError):
        set_aside(root, name, reason)


def set_aside(root: Path, name: str, reason: str) -> None:
    """Rename a checkpoint so that no run goes on from it, durably, with the reason beside it."""
    with durable.opened_directory(root) as directory:
        present = durable.entries(directory)
        tries = (f"{BAD}{name}" + (f"-{n}" if n else "") for n in range(len(present) + 1))
        bad = next(each for each in tries if each not in present)
        durable.rename(name, bad, within=directory)
        fault_point("recovery.moved")
        durable.sync(directory)
        durable.replace_file(f"{bad}.reason.txt", f"{reason}\n".encode(), within=directory, nonce="reason")


def _settle(root: Path) -> None:
    """Finish or undo what a dead process left half done."""
    with suppress(FileNotFoundError), durable.opened_directory(root) as directory:
        present = durable.entries(directory)
        for old in present:
            name = _superseded_name(old)
            if name is not None and name not in present:  # it died before the new one took the name
                durable.rename(old, name, within=directory)
                durable.sync(directory)
        remove_leftovers(directory)


def _has_trained(root: Path) -> bool:
    """Tell whether `root` bears any trace of a checkpoint that was committed."""
    try:
        with durable.opened_directory(root) as directory:
            names = durable.entries(directory)
    except FileNotFoundError:
        return False
    return LATEST in names or any(name.startswith((BAD, DELETED, SUPERSEDED)) for name in names)
