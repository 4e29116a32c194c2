"""A disk that refuses a save costs that save: neither the one after it nor the run."""

import signal

import pytest
from endurance import TINY
from trainer_job import Job, metric_rows

from conf.exits import Exit
from pretrain import check_ledger
from pretrain.storage import commit
from pretrain.stream.ledger import Entry, read

pytestmark = pytest.mark.slow


def settings(shards, run_dir, *more):
    return [*TINY, f"data.index={shards}", f"run_dir={run_dir}", *more]


def steps_saved(run_dir):
    return sorted(commit.verify(path).step for path in commit.checkpoints(run_dir / "checkpoints"))


def test_a_last_save_that_fails_once_is_made_again(shards, tmp_path):
    job = Job(
        tmp_path,
        *settings(shards, tmp_path, "steps=3", "checkpoint.every=0"),
        FAULTS="commit.manifest:eio@1",
    )
    job.succeeded()
    assert steps_saved(tmp_path) == [3]
    assert f"{tmp_path}/checkpoints/.tmp-step-00000003-" in job.output(), "the alert names the place"
    assert "None" not in job.output()


def test_a_run_that_is_asked_to_stop_tries_again_to_save_and_asks_to_be_requeued(shards, tmp_path):
    job = Job(
        tmp_path,
        *settings(shards, tmp_path, "steps=1000000", "checkpoint.every=0"),
        FAULTS="write.synced:enospc@1#1,commit.manifest:eio@1",
    )
    assert job.reaches(lambda: metric_rows(tmp_path)), job.output()
    job.processes[1].send_signal(signal.SIGTERM)
    assert job.wait() == [Exit.REQUEUE, Exit.REQUEUE], job.output()
    assert len(steps_saved(tmp_path)) == 1


def test_a_disk_that_is_full_for_a_while_costs_a_save_but_no_line_of_the_ledger(shards, tmp_path):
    """Full from step 4 to step 10: the save at 6 is refused, and that at 9."""
    full = ",".join(f"lines.write:enospc@{visit}" for visit in range(5, 15))
    job = Job(tmp_path, *settings(shards, tmp_path, "steps=14", "checkpoint.keep_every=1"), FAULTS=full)
    job.succeeded()
    assert steps_saved(tmp_path) == [3, 12, 14]
    assert job.output().count("a checkpoint was not saved") == 2
    check_ledger.main([f"run_dir={tmp_path}"])
    assert [each.step for each in read(tmp_path) if isinstance(each, Entry)] == list(range(1, 15))


def test_a_save_that_fails_to_count_costs_no_other(shards, tmp_path):
    """It is known two steps later, and the save after it is not held up by it."""
    job = Job(
        tmp_path,
        *settings(shards, tmp_path, "steps=14", "checkpoint.keep_every=1"),
        FAULTS="commit.manifest:eio@1",
    )
    job.succeeded()
    assert steps_saved(tmp_path) == [6, 9, 12, 14]
