"""Two ranks whose optimizer state lies in the host's memory learn what others do, and resume bit by bit."""

import pytest
from trainer_job import Job, losses, smoke, state_files

pytestmark = pytest.mark.slow


def settings(shards, run_dir, stage, *more):
    rare = ["validation.every=0", "checkpoint.every=0", "log_every=1", "steps=8", "batch.micro_sequences=2"]
    return smoke(shards, run_dir, f"zero=stage{stage}", *rare, *more)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_learn_as_without_and_resume_bit_by_bit(shards, tmp_path, stage):
    without, straight, stopped = (tmp_path / name for name in ("without", "straight", "stopped"))
    Job(without, *settings(shards, without, stage)).succeeded()
    Job(straight, *settings(shards, straight, stage, "zero.offload=true")).succeeded()
    assert list(losses(straight).values()) == pytest.approx(list(losses(without).values()), rel=1e-5)

    Job(stopped, *settings(shards, stopped, stage, "zero.offload=true", "stop_at=5")).succeeded()
    Job(stopped, *settings(shards, stopped, stage, "zero.offload=true")).succeeded()
    assert losses(stopped) == losses(straight)
    assert state_files(stopped, 8) == state_files(straight, 8)
