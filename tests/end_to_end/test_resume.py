"""A run that is killed goes on as if nothing had happened: losses, weights and moments, to the bit."""

import random
import time

import pytest
from endurance import TINY
from trainer_job import Job, losses, metric_rows, state_files

pytestmark = pytest.mark.slow

STEPS = 12
SUPPORTED = [
    *((stage, "fp32") for stage in (0, 1, 2, 3)),
    *((stage, "bf16") for stage in (1, 2, 3)),
    (1, "autocast"),
]


def settings(shards, run_dir, stage, precision):
    more = [f"zero=stage{stage}", f"precision={precision}", f"steps={STEPS}", "checkpoint.every=4"]
    return [*TINY, *more, "validation.every=6", f"data.index={shards}", f"run_dir={run_dir}"]


@pytest.mark.parametrize(("stage", "precision"), SUPPORTED)
def test_a_killed_run_ends_bit_equal_to_an_uninterrupted_one(shards, tmp_path, stage, precision):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    Job(straight, *settings(shards, straight, stage, precision)).succeeded()

    seed = random.randrange(2**32)
    kill_after = random.Random(seed).randrange(1, STEPS - 1)
    print(f"seed {seed}: SIGKILL after step {kill_after}")
    job = Job(killed, *settings(shards, killed, stage, precision))
    while job.running() and len(losses(killed)) < kill_after:
        time.sleep(0.01)
    assert job.kill() == [-9, -9]

    Job(killed, *settings(shards, killed, stage, precision)).succeeded()
    assert losses(killed) == losses(straight)
    assert len(losses(straight)) == STEPS
    assert state_files(killed, STEPS) == state_files(straight, STEPS)
    assert len(state_files(straight, STEPS)) == 2
    last = [row["val/loss"] for row in metric_rows(killed) if "val/loss" in row][-1]
    assert last == [row["val/loss"] for row in metric_rows(straight) if "val/loss" in row][-1]
