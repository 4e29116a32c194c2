"""A training job reduced to its checkpoints: what the crash tests kill, starve and cut off.

It takes the lease, resumes, saves, prunes and reports, as the trainer does, with a few kilobytes for
tensors. One step is saved twice, as after a roll-back. Run as a program it is one rank of the job:

    job.py RUN_DIR RANK WORLD_SIZE [FD]     rank 1 reads directories from stdin, answers on stdout
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if __name__ == "__main__":  # run with `python -I -S`: no site, no conf.yaml machinery, 40 ms
    import types

    _root = str(Path(__file__).resolve().parents[2])
    sys.modules["conf"] = types.ModuleType("conf")
    sys.modules["conf"].__path__ = [f"{_root}/conf"]
    sys.path.insert(0, _root)

from conf.exits import Exit, UserError
from pretrain.storage import commit, lease

RUN = {"run_id": "r", "config_sha256": "c", "dataset_fingerprint": "d"}
PERMANENT_EVERY = 4


@dataclass(frozen=True)
class Save:
    """One save of the schedule; `attempt` counts the saves of the same step."""

    step: int
    attempt: int = 0


SCHEDULE = (*map(Save, range(1, 6)), Save(5, 1), *map(Save, range(6, 10)))
# A writer puts one rank's files of one save into a directory.
Writer = Callable[[Path, Save], Sequence[commit.FileRecord]]
Report = Callable[[str, int], None]


def payload(save: Save, rank: int) -> bytes:
    """Return what `rank` saves; every part of it tells its step, attempt and rank."""
    return f"{save.step}.{save.attempt}.{rank};".encode() * (50 + rank)


def local_writer(rank: int) -> Writer:
    """Return a writer that writes in this process, each file in two chunks."""

    def write(directory: Path, save: Save) -> list[commit.FileRecord]:
        data = payload(save, rank)
        return [commit.write(directory, f"rank{rank}.bin", [data[:100], data[100:]])]

    return write


def run(run_dir: Path, writers: Sequence[Writer], report: Report, schedule: Sequence[Save] = SCHEDULE) -> int:
    """Train to the end of the schedule from wherever the directory says; return the exit code.

    Reports ("resumed", i), ("saved", i) and ("failed", i), i being the place in the schedule.
    """
    root = run_dir / "checkpoints"
    held = lease.acquire(run_dir, above=commit.highest_fence(root), heartbeat_seconds=None)
    found = commit.newest_valid(root, **RUN)
    last = schedule.index(saved_in(found)) if found else -1
    report("resumed", last)
    saved = last
    if found:  # the job before may have died between its last save and its prune
        commit.prune(root, keep_every_steps=PERMANENT_EVERY)
    for place in range(last + 1, len(schedule)):
        try:
            save_once(root, schedule[place], writers, held)
        except OSError:
            report("failed", place)
            continue
        report("saved", place)
        saved = place
        try:
            commit.prune(root, keep_every_steps=PERMANENT_EVERY)
        except OSError:
            report("unpruned", place)
    held.release()
    return Exit.OK if saved == len(schedule) - 1 else Exit.DISK


def save_once(root: Path, save: Save, writers: Sequence[Writer], held: lease.Lease) -> None:
    """Make one save count, or leave nothing of it."""
    nonce = f"{held.fence}.{save.step}.{save.attempt}"
    temporary = commit.begin(root, save.step, nonce)
    try:
        files = tuple(record for write in writers for record in write(temporary, save))
        stated = commit.Manifest(
            step=save.step,
            world_size=len(writers),
            nonce=nonce,
            files=files,
            facts={"attempt": save.attempt},
            fence=held.fence,
            **RUN,
        )
        commit.commit(root, temporary, stated, guard=held.check)
    except BaseException:
        commit.abandon(root, temporary)
        raise


def saved_in(checkpoint: commit.Checkpoint) -> Save:
    """Return which save a checkpoint is; raise AssertionError if its bytes are any other's."""
    save = Save(checkpoint.step, checkpoint.manifest.facts["attempt"])
    for rank in range(checkpoint.manifest.world_size):
        held = (checkpoint.path / f"rank{rank}.bin").read_bytes()
        assert held == payload(save, rank), f"{checkpoint.path}: rank {rank} holds something else"
    assert len(checkpoint.manifest.files) == checkpoint.manifest.world_size
    return save


def final_state(run_dir: Path) -> dict[str, bytes]:
    """Return every file that a finished run leaves, without what may differ between attempts.

    That is the manifests' nonces, and the `latest` hint, which the next save mends.
    """
    root = run_dir / "checkpoints"
    names = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    varying = ("MANIFEST.json", "latest")
    return {name: b"" if name.endswith(varying) else path.read_bytes() for name, path in names.items()}


def _remote_writer(to_peer: int) -> Writer:
    """Return a writer that asks rank 1's process, over pipes."""

    def write(directory: Path, save: Save) -> list[commit.FileRecord]:
        os.write(to_peer, f"{json.dumps([str(directory), save.step, save.attempt])}\n".encode())
        answer = sys.stdin.readline()
        if not answer:
            raise ConnectionError("rank 1 died")
        records = json.loads(answer)
        if isinstance(records, str):
            raise OSError(records)
        return [commit.FileRecord(**record) for record in records]

    return write


def _serve(rank: int) -> int:
    for line in sys.stdin:
        directory, step, attempt = json.loads(line)
        try:
            answer = [asdict(record) for record in local_writer(rank)(Path(directory), Save(step, attempt))]
        except OSError as error:
            answer = str(error)
        print(json.dumps(answer), flush=True)
    return Exit.OK


def main(arguments: Sequence[str]) -> int:
    """Be one rank of the job."""
    run_dir, rank, world_size = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    if rank:
        return _serve(rank)
    writers = [local_writer(0)]
    if world_size == 2:
        writers.append(_remote_writer(int(arguments[3])))
    try:
        return run(run_dir, writers, lambda what, place: print(what, place, flush=True))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.code
    except OSError as error:
        print(error, file=sys.stderr)
        return Exit.DISK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
