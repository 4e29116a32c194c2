"""Cases that the sweeps do not reach: late trainers, damage before a prune, errors that must be told."""

import errno
from collections.abc import Callable
from pathlib import Path

from conf.exits import CorruptError, LeaseHeldError
from faults import job, scratch, shim
from pretrain.storage import commit, lease


def findings() -> list[str]:
    """Return what is wrong, one line for each case that fails."""
    found = []
    for case in CASES:
        with scratch.directory() as base:
            if wrong := case(base):
                found.append(wrong)
    return found


def save(
    root: Path, step: int, *, fence: int = 0, guard: Callable[[], object] = lambda: None
) -> commit.Checkpoint:
    """Make one checkpoint of one rank."""
    temporary = commit.begin(root, step, f"n{step}.{fence}")
    files = tuple(job.local_writer(0)(temporary, job.Save(step)))
    return commit.commit(root, temporary, _stated(step, fence, files), guard=guard)


def _stated(step: int, fence: int, files: tuple[commit.FileRecord, ...]) -> commit.Manifest:
    return commit.Manifest(step, world_size=1, nonce=f"n{step}.{fence}", files=files, fence=fence, **job.RUN)


def late_rename(base: Path) -> str | None:
    """The old trainer passed all checks, then its node slept; its rename arrives last of all."""
    save(base / "run", 2, fence=2)
    late = save(base / "old", 8, fence=1).path
    late.rename(base / "run" / late.name)
    found = commit.newest_valid(base / "run")
    return None if found and found.step == 2 else f"the old trainer's checkpoint was preferred: {found}"


def late_commit(base: Path) -> str | None:
    """The new trainer has saved already."""
    save(base / "run", 2, fence=2)
    try:
        save(base / "run", 3, fence=1)
    except LeaseHeldError:
        return None
    return "an old fence could commit over a newer one"


def taken_over(base: Path) -> str | None:
    """The new trainer has saved nothing yet: only the lease file tells."""
    old = lease.acquire(base / "run", owner={"host": "node7", "job": "1"}, heartbeat_seconds=None)
    old._close()
    old._lock = 0  # on its own node it still holds the kernel's lock
    new = lease.acquire(base / "run", owner={"host": "node8", "job": "1"}, heartbeat_seconds=None)
    try:
        save(base / "run" / "checkpoints", 1, fence=old.fence, guard=old.check)
    except LeaseHeldError:
        return None
    finally:
        old._lock = None
        new.release()
    return "a trainer whose lease was taken over could commit"


def damage_before_prune(base: Path) -> str | None:
    """The newest checkpoint rots between its commit and the prune."""
    for step in (1, 2, 3):
        path = save(base / "run", step).path
    (path / "rank0.bin").write_bytes(b"rot")
    commit.prune(base / "run")
    names = [each.name for each in commit.checkpoints(base / "run")]
    return None if len(names) == 3 else f"pruned although the newest is damaged: {names} are left"


def set_aside(base: Path) -> str | None:
    """A roll-back died between its renames, and the next process saves before it loads."""
    save(base / "run", 1)
    aside = save(base / "run", 2).path.rename(base / "run" / ".old-step-00000002-n")
    commit.begin(base / "run", 3, "n")
    return None if aside.exists() else "the only copy of step 2 was swept away"


def stale_hint(base: Path) -> str | None:
    """`latest` names an older checkpoint, or none."""
    save(base / "run", 1)
    save(base / "run", 2)
    for hint in ("step-00000001\n", "", "step-00000009", "../../etc", "\0" * 9):
        (base / "run" / "latest").write_text(hint)
        found = commit.newest_valid(base / "run")
        if not found or found.step != 2:
            return f"with latest={hint!r}, {found} was taken"
    return None


def loud_errors(base: Path) -> str | None:
    """Each call that puts a rank's file on disk fails once; the writer must hear of each."""
    temporary = commit.begin(base / "run", 1, "n")
    with shim.intercepted(lambda place, name: None) as calls:
        commit.write(temporary, "first", [b"x" * 100])

    for broken, name_there in enumerate(calls.names):

        def before(place: int, name: str, broken: int = broken) -> None:
            if place == broken:
                raise OSError(errno.EIO, "planted")

        try:
            with shim.intercepted(before):
                commit.write(temporary, f"rank{broken}.bin", [b"x" * 100])
        except OSError:
            continue
        return f"an error of {name_there} was swallowed"
    return None


def other_files(base: Path) -> str | None:
    """A rank's file vanished between its writing and the commit."""
    temporary = commit.begin(base / "run", 1, "n1.0")
    files = tuple(job.local_writer(0)(temporary, job.Save(1)))
    (temporary / files[0].name).unlink()
    try:
        commit.commit(base / "run", temporary, _stated(1, 0, files))
    except CorruptError:
        return None
    return "committed although a file is missing"


CASES = (
    *(late_rename, late_commit, taken_over, damage_before_prune),
    *(set_aside, stale_hint, loud_errors, other_files),
)
