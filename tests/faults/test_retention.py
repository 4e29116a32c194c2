import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.exits import ConfigError
from faults import cases, scratch
from pretrain.storage import commit, recovery
from pretrain.storage.retention import is_permanent, most_at_once

steps = st.lists(st.integers(1, 30), min_size=1, max_size=9, unique=True).map(sorted)


def directory_with(root, saved, damaged):
    for step in saved:
        path = cases.save(root, step).path
        if step in damaged:
            (path / "rank0.bin").write_bytes(b"rot")


def left(root):
    return [int(path.name[5:]) for path in commit.checkpoints(root)]


@settings(max_examples=150, deadline=None)
@given(saved=steps, keep_last=st.integers(2, 4), every=st.none() | st.integers(1, 7), data=st.data())
def test_prune_keeps_the_newest_whole_ones_and_the_permanent_ones(saved, keep_last, every, data):
    damaged = data.draw(st.sets(st.sampled_from(saved)))
    with scratch.directory() as base:
        root = base / "root"
        directory_with(root, saved, damaged)
        gone = commit.prune(root, keep_last=keep_last, keep_every_steps=every)
        kept = left(root)
        assert sorted(kept + [int(path.name[5:]) for path in gone]) == saved
        whole = [step for step in reversed(saved) if step not in damaged]
        assert set(whole[:keep_last]) <= set(kept)
        assert {step for step in saved if is_permanent(step, every)} <= set(kept)
        if len(whole) >= keep_last:  # and nothing else stays
            oldest = whole[keep_last - 1]
            assert all(step >= oldest or is_permanent(step, every) for step in kept)
        else:
            assert kept == list(reversed(saved))
        assert commit.prune(root, keep_last=keep_last, keep_every_steps=every) == []
        if whole:
            assert getattr(commit.newest_valid(root), "step", None) == whole[0]


def test_no_more_lie_there_at_once_than_the_disk_is_asked_to_hold(tmp_path):
    most = 0
    for step in range(1, 25):
        directory_with(tmp_path / "root", [step], [])
        most = max(most, len(left(tmp_path / "root")))
        commit.prune(tmp_path / "root", keep_last=2, keep_every_steps=10)
    assert most == most_at_once(24, keep_last=2, keep_every_steps=10) == 5


def test_prune_refuses_to_leave_a_single_checkpoint(tmp_path):
    for options in ({"keep_last": 1}, {"keep_every_steps": 0}):
        with pytest.raises(ConfigError, match="use"):
            commit.prune(tmp_path, **options)


def test_prune_reads_each_checkpoint_once_and_again_when_it_changes(tmp_path, monkeypatch):
    read = []
    verify = recovery.verify
    monkeypatch.setattr(recovery, "verify", lambda path: read.append(path.name) or verify(path))
    for step in (1, 2):
        cases.save(tmp_path, step)
        commit.prune(tmp_path)
    assert sorted(read) == ["step-00000001", "step-00000002"]
    (tmp_path / "step-00000001" / "rank0.bin").touch()
    commit.prune(tmp_path)
    assert sorted(read) == ["step-00000001", "step-00000001", "step-00000002"]


def test_what_was_verified_to_go_on_from_is_not_read_again_unless_it_was_touched(tmp_path, monkeypatch):
    for step in (1, 2):
        cases.save(tmp_path, step)
    read = []

    def shared(path, names):
        read.append(path.name)
        return recovery.digests(path, names)

    assert commit.newest_valid(tmp_path, hashing=shared).step == 2
    monkeypatch.setattr(recovery, "verify", lambda path: read.append(path.name))
    commit.prune(tmp_path)
    assert read == ["step-00000002", "step-00000001"], "only the older one was read by prune"
    (tmp_path / "step-00000002" / "rank0.bin").touch()
    commit.prune(tmp_path)
    assert read[2:] == ["step-00000002", "step-00000001"]


def test_a_temporary_checkpoint_is_due_by_the_clock_and_a_permanent_one_by_the_step():
    assert commit.save_due(7, 300.0, every_seconds=300, every_steps=None)
    assert not commit.save_due(7, 299.9, every_seconds=300, every_steps=1000)
    assert commit.save_due(2000, 0.0, every_seconds=300, every_steps=1000)
    assert not commit.save_due(0, 0.0, every_seconds=300, every_steps=1000)
    assert not commit.save_due(7, 1e9, every_seconds=None, every_steps=None)


def test_a_state_that_is_named_stays_until_it_is_not(tmp_path):
    directory_with(tmp_path, [1, 2, 3, 4, 5], [])
    commit.prune(tmp_path, keep_steps=[2])
    assert left(tmp_path) == [5, 4, 2]
    commit.prune(tmp_path)
    assert left(tmp_path) == [5, 4]
