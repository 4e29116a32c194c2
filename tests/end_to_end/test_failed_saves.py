"""A disk that refuses a save costs that save: neither the one after it nor the run."""

import signal

import pytest
from endurance import TINY
from trainer_job import Job, metric_rows

from conf.exits import Exit
from pretrain.storage import commit

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


def test_a_save_that_fails_to_count_costs_no_other(shards, tmp_path):
    """It is known two steps later, and the save after it is not held up by it."""
    job = Job(
        tmp_path,
        *settings(shards, tmp_path, "steps=14", "checkpoint.keep_every=1"),
        FAULTS="commit.manifest:eio@1",
    )
    job.succeeded()
    assert steps_saved(tmp_path) == [6, 9, 12, 14]
