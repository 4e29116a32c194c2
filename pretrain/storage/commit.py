"""When a checkpoint counts: from the rename that follows the last byte's arrival on disk, not before.

One save is: `begin` on rank 0, `write` on every rank, the FileRecords gathered to rank 0, `commit`
there. If any of it fails, `abandon`: the checkpoints before it were not touched. Rank 0 holds the
run directory's lease throughout. This module needs no tensor library, so that a test can kill it
at each of its system calls.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from conf.exits import LeaseHeldError, RefusedError
from pretrain.storage import durable
from pretrain.storage.faults import fault_point
from pretrain.storage.manifest import (
    LATEST,
    MANIFEST_NAME,
    Checkpoint,
    FileRecord,
    Manifest,
    decode,
    encode,
    step_name,
    temporary_name,
)
from pretrain.storage.recovery import (
    SUPERSEDED,
    TEMPORARY,
    Hashing,
    candidates,
    check_files,
    checkpoints,
    highest_fence,
    newest_valid,
    remove_leftovers,
    set_aside,
    verify,
)
from pretrain.storage.retention import prune, save_due

__all__ = [
    "Checkpoint",
    "FileRecord",
    "Hashing",
    "Manifest",
    "abandon",
    "begin",
    "candidates",
    "checkpoints",
    "commit",
    "highest_fence",
    "newest_valid",
    "prune",
    "save_due",
    "set_aside",
    "verify",
    "write",
]


def begin(root: Path, step: int, nonce: str) -> Path:
    """Make the private, empty directory into which all ranks write the state after `step` steps.

    Rank 0 calls it, under the lease: whatever earlier attempts left behind is dead, and removed.
    `nonce` is new for every attempt, so that a writer left over from another one finds no directory.
    """
    root, name = Path(root), temporary_name(step, nonce)
    durable.make_root(root)
    with durable.opened_directory(root) as directory:
        remove_leftovers(directory)
        durable.make_directory(name, within=directory)
        fault_point("begin.made")
    return root / name


def write(directory: Path, name: str, chunks: Iterable[bytes | memoryview]) -> FileRecord:
    """Put one new file of this rank on disk, durably, and return what the manifest must say of it.

    Raises OSError if any of it fails, FileExistsError if another rank has used the name.
    """
    if durable.checked_name(name) == MANIFEST_NAME:
        raise RefusedError(f"{MANIFEST_NAME} is written by commit; choose another file name")
    with durable.opened_directory(directory) as descriptor:
        length, sha256 = durable.create_file(name, chunks, within=descriptor)
        # Rank 0 may sit on another node, whose fsync of this directory need not cover our entry.
        durable.sync(descriptor)
    return FileRecord(name, length, sha256)


def commit(
    root: Path, temporary: Path, manifest: Manifest, *, guard: Callable[[], object] = lambda: None
) -> Checkpoint:
    """Make what all ranks wrote the newest checkpoint; when this returns, it outlives a power cut.

    Rank 0 calls it with every rank's records. `guard` is called last before the checkpoint counts
    and raises if it must not: `lease.check`.

    Raises:
        CorruptError: The directory does not hold exactly the manifest's files at their sizes.
        LeaseHeldError: A trainer with a newer lease has taken over.
        OSError: The disk failed. The checkpoint may count or not; the earlier ones still do.
    """
    root, temporary = Path(root), Path(temporary)
    if temporary != root / temporary_name(manifest.step, manifest.nonce):
        raise RefusedError(f"{temporary} is not what begin made for step {manifest.step} in {root}")
    if (newer := highest_fence(root)) > manifest.fence:
        raise LeaseHeldError(
            f"{root} has a checkpoint with fence {newer}, newer than this trainer's {manifest.fence}; "
            "another one has taken over, stop this one"
        )
    final, data = step_name(manifest.step), encode(manifest)
    with durable.opened_directory(root) as parent:
        with durable.opened_directory(temporary.name, within=parent) as directory:
            check_files(manifest, directory)
            durable.create_file(MANIFEST_NAME, [data], within=directory)
            fault_point("commit.manifest")
            durable.sync(directory)
        guard()
        superseded = _set_aside(final, manifest.nonce, parent)
        durable.rename(temporary.name, final, within=parent)
        fault_point("commit.renamed")
        durable.sync(parent)
        # From here on it counts; a hint or a leftover that the disk refuses does not change that.
        with suppress(OSError):
            durable.replace_file(LATEST, f"{final}\n".encode(), within=parent, nonce=manifest.nonce)
            if superseded:
                durable.remove_tree(superseded, within=parent)
    return Checkpoint(root / final, decode(data))


def abandon(root: Path, temporary: Path) -> None:
    """Remove a save that will not be committed; do nothing if it is gone or has been committed."""
    name = Path(temporary).name
    if not name.startswith(TEMPORARY):
        raise RefusedError(f"{temporary} is not what begin made; only an uncommitted save can be abandoned")
    with durable.opened_directory(Path(root)) as directory:
        durable.remove_tree(name, within=directory)


def _set_aside(final: str, nonce: str, parent: int) -> str | None:
    """Free the name `final` if a roll-back saves the same step again; return where it went.

    A crash before the new one takes the name leaves the old one to be restored by `newest_valid`.
    """
    if final not in durable.entries(parent):
        return None
    superseded = f"{SUPERSEDED}{final}-{nonce}"
    durable.rename(final, superseded, within=parent)
    fault_point("commit.superseded")
    return superseded
