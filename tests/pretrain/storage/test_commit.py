import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conf.exits import (
    ConfigError,
    CorruptError,
    DatasetError,
    LeaseHeldError,
    NoCheckpointError,
    RefusedError,
)
from pretrain.storage import commit

RUN = {"run_id": "run", "config_sha256": "c" * 64, "dataset_fingerprint": "d" * 64}


def content(step, rank):
    return b"step %d rank %d\n" % (step, rank) * 500


def save(root, step, *, ranks=2, fence=0, nonce=None, payload=content, guard=lambda: None, **changes):
    nonce = nonce or f"n{step}f{fence}"
    temporary = commit.begin(root, step, nonce)
    files = tuple(commit.write(temporary, f"rank{r}.bin", [payload(step, r)]) for r in range(ranks))
    facts = {"tokens": step * 1000, "zero_stage": 1, "losses": [3.25, 1e-9]}
    stated = dict(RUN, step=step, world_size=ranks, nonce=nonce, files=files, facts=facts, fence=fence)
    return commit.commit(root, temporary, commit.Manifest(**{**stated, **changes}), guard=guard)


def rejected(root, **expected):
    seen = []
    found = commit.newest_valid(root, on_rejected=lambda path, why: seen.append((path.name, why)), **expected)
    return found, seen


@pytest.fixture
def root(tmp_path):
    return tmp_path / "checkpoints"


def test_a_committed_checkpoint_is_found_again_with_all_it_says(root):
    saved = save(root, 123)
    assert saved.path.name == "step-00000123"
    assert commit.newest_valid(root, **RUN) == saved
    assert commit.verify(saved.path) == saved.manifest
    assert (root / "latest").read_text() == "step-00000123\n"
    assert sorted(each.name for each in root.iterdir()) == ["latest", "step-00000123"]


def test_a_directory_that_never_had_a_checkpoint_gives_none(root):
    assert commit.newest_valid(root) is None
    commit.begin(root, 1, "killed")
    assert commit.newest_valid(root) is None


def test_an_uncommitted_save_is_invisible_and_the_next_one_removes_it(root):
    save(root, 1)
    dead = commit.begin(root, 2, "dead")
    commit.write(dead, "rank0.bin", [b"half"])
    found = commit.newest_valid(root)
    assert found
    assert found.step == 1
    save(root, 3)
    assert not dead.exists()


def test_abandoning_a_save_leaves_no_trace_and_may_be_repeated(root):
    save(root, 1)
    temporary = commit.begin(root, 2, "n")
    commit.write(temporary, "rank0.bin", [b"x"])
    commit.abandon(root, temporary)
    commit.abandon(root, temporary)
    assert sorted(each.name for each in root.iterdir()) == ["latest", "step-00000001"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "remove", "add", "manifest", "empty"])
def test_a_damaged_checkpoint_is_moved_aside_and_the_one_before_is_taken(root, damage):
    save(root, 1)
    path = save(root, 2).path
    victim = path / "rank1.bin"
    data = victim.read_bytes()
    {
        "flip": lambda: victim.write_bytes(bytes([data[0] ^ 1]) + data[1:]),
        "truncate": lambda: victim.write_bytes(data[:-1]),
        "extend": lambda: victim.write_bytes(data + b"\0"),
        "remove": victim.unlink,
        "add": lambda: (path / "rank2.bin").write_bytes(b""),
        "manifest": lambda: (path / "MANIFEST.json").write_bytes(b"{}"),
        "empty": lambda: shutil.rmtree(path) or path.mkdir(0o700),
    }[damage]()
    found, seen = rejected(root, **RUN)
    assert found
    assert found.step == 1
    assert [name for name, _ in seen] == ["step-00000002"]
    assert (root / ".bad-step-00000002").is_dir()
    assert (root / ".bad-step-00000002.reason.txt").read_text().strip() == seen[0][1]
    assert rejected(root)[1] == []  # told once


def test_readers_without_the_lease_change_nothing(root):
    save(root, 1)
    save(root, 2).path.joinpath("rank0.bin").unlink()
    before = sorted(root.rglob("*"))
    found = commit.newest_valid(root, repair=False)
    assert found
    assert found.step == 1
    assert sorted(root.rglob("*")) == before


def test_when_no_valid_checkpoint_is_left_training_does_not_start_over_in_silence(root):
    save(root, 1).path.joinpath("rank0.bin").unlink()
    with pytest.raises(NoCheckpointError, match=r"rank0.bin.*another run_dir"):
        commit.newest_valid(root)
    with pytest.raises(NoCheckpointError):  # and not at the second try either
        commit.newest_valid(root)
    shutil.rmtree(root / ".bad-step-00000001")
    (root / ".bad-step-00000001.reason.txt").unlink()
    with pytest.raises(NoCheckpointError, match="all are gone"):
        commit.newest_valid(root)


def test_another_configuration_or_data_set_is_named_and_nothing_is_moved(root):
    save(root, 1)
    with pytest.raises(ConfigError, match=r"c{64}.*e{64}"):
        commit.newest_valid(root, config_sha256="e" * 64)
    with pytest.raises(DatasetError, match=r"d{64}.*f{64}"):
        commit.newest_valid(root, dataset_fingerprint="f" * 64)
    assert commit.newest_valid(root, **RUN)


def test_a_checkpoint_of_another_run_is_passed_over_and_left_in_place(root):
    save(root, 1)
    save(root, 2, run_id="other")
    found, seen = rejected(root, **RUN)
    assert found
    assert found.step == 1
    assert "'other'" in seen[0][1]
    assert (root / "step-00000002").is_dir()


def test_a_storage_error_passes_a_checkpoint_over_without_moving_it(root, monkeypatch):
    save(root, 1)
    save(root, 2)
    real = os.read

    def read(descriptor, count):
        if "step-00000002/rank" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(5, "Input/output error")
        return real(descriptor, count)

    monkeypatch.setattr(os, "read", read)
    found, seen = rejected(root)
    assert found
    assert found.step == 1
    assert len(seen) == 1
    monkeypatch.undo()
    found, seen = rejected(root)
    assert found
    assert found.step == 2


@pytest.mark.parametrize("wrong", ["missing", "extra", "short", "unlisted"])
def test_commit_refuses_a_directory_that_is_not_what_the_ranks_reported(root, wrong):
    temporary = commit.begin(root, 1, "n")
    record = commit.write(temporary, "rank0.bin", [b"abc"])
    files = {
        "missing": (record, commit.FileRecord("rank1.bin", 3, record.sha256)),
        "extra": (record,),
        "short": (commit.FileRecord("rank0.bin", 4, record.sha256),),
        "unlisted": (),
    }[wrong]
    if wrong == "extra":
        commit.write(temporary, "rank1.bin", [b"abc"])
    stated = commit.Manifest(step=1, world_size=1, nonce="n", files=files, **RUN)
    with pytest.raises(CorruptError):
        commit.commit(root, temporary, stated)
    assert commit.newest_valid(root) is None


def test_two_ranks_cannot_write_the_same_file(root):
    temporary = commit.begin(root, 1, "n")
    commit.write(temporary, "rank0.bin", [b"a"])
    with pytest.raises(FileExistsError):
        commit.write(temporary, "rank0.bin", [b"b"])


def test_a_writer_of_an_abandoned_attempt_finds_no_directory(root):
    old = commit.begin(root, 1, "first")
    commit.begin(root, 1, "second")
    with pytest.raises(FileNotFoundError):
        commit.write(old, "rank1.bin", [b"late"])


def test_the_record_is_the_length_and_hash_of_all_chunks(root):
    import hashlib
    from array import array

    floats = array("f", [1.5, -2.0])
    record = commit.write(commit.begin(root, 1, "n"), "a", [b"x" * 70_000, memoryview(floats), b""])
    data = b"x" * 70_000 + floats.tobytes()
    assert record == commit.FileRecord("a", len(data), hashlib.sha256(data).hexdigest())


def test_the_guard_speaks_last_before_a_checkpoint_counts(root):
    save(root, 1)

    def guard():
        raise LeaseHeldError("taken over")

    with pytest.raises(LeaseHeldError, match="taken over"):
        save(root, 2, guard=guard)
    found = commit.newest_valid(root)
    assert found
    assert found.step == 1


def test_a_later_trainer_wins_over_more_steps_of_the_one_it_replaced(root):
    save(root, 100, fence=1)
    save(root, 110, fence=2)
    cut_off = root / "step-00000400"
    other = save(root.parent / "elsewhere", 400, fence=1)
    other.path.rename(cut_off)  # the old trainer's rename arrives late
    found = commit.newest_valid(root)
    assert found
    assert found.step == 110
    assert next(each.name for each in commit.checkpoints(root)) == "step-00000110"


def test_a_trainer_that_was_replaced_cannot_commit(root):
    save(root, 100, fence=2)
    with pytest.raises(LeaseHeldError, match="fence 2"):
        save(root, 200, fence=1)


def test_a_roll_back_saves_the_same_step_again(root):
    save(root, 1)
    save(root, 2)
    save(root, 2, nonce="again", payload=lambda step, rank: b"other")
    found = commit.newest_valid(root)
    assert found
    assert found.manifest.nonce == "again"
    assert (found.path / "rank0.bin").read_bytes() == b"other"
    assert sorted(each.name for each in root.iterdir()) == ["latest", "step-00000001", "step-00000002"]


def test_a_roll_back_that_dies_between_its_two_renames_loses_nothing(root):
    save(root, 1)
    (save(root, 2).path).rename(root / ".old-step-00000002-a-b")
    found = commit.newest_valid(root)
    assert found
    assert found.step == 2


def test_directories_and_files_are_private_whatever_the_umask(root):
    before = os.umask(0)
    try:
        path = save(root, 1).path
    finally:
        os.umask(before)
    assert {root.stat().st_mode & 0o777, path.stat().st_mode & 0o777} == {0o700}
    assert {each.stat().st_mode & 0o777 for each in path.iterdir()} == {0o600}


def test_a_directory_that_everybody_can_write_is_refused(root):
    path = save(root, 1).path
    for each in (path, root):
        each.chmod(0o777)
        with pytest.raises(RefusedError, match="chmod o-w"):
            commit.newest_valid(root)
        each.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(root):
    save(root, 1)
    os.chown(root, 12345, 12345)
    with pytest.raises(RefusedError, match="belongs to user 12345"):
        commit.newest_valid(root)


def test_importing_the_protocol_takes_no_framework():
    # conf's own door imports hydra; the protocol needs its exit codes only, so they are all it gets.
    lines = (
        "import sys, types; conf = types.ModuleType('conf'); conf.__path__ = [sys.argv[1] + '/conf']",
        "sys.modules['conf'] = conf; sys.path.insert(0, sys.argv[1])",
        "from pretrain.storage import commit, lease",
        "print(*sorted(set(sys.modules) & {'torch', 'numpy', 'hydra', 'omegaconf', 'deepspeed'}))",
    )
    here = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "\n".join(lines), here], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
