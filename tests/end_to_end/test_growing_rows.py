"""A run that begins with short rows trains as a plain loop does, and over a resume, on the same sequences."""

import pytest
from plain_loop import plain_losses
from trainer_job import Job, losses, metric_rows, smoke, state_files

from pretrain.check_ledger import main as check_ledger

pytestmark = pytest.mark.slow

# Sequences of 64 tokens, 8 in a step: quarters for the first 2,048 tokens, then halves, whole from 4,096 on.
ROWS = [16] * 4 + [32] * 4 + [64] * 3
STEPS = len(ROWS)


def settings(shards, run_dir, stage, *more):
    growing = ["batch.rows_from=16", "batch.rows_warmup_tokens=4096", "batch.micro_sequences=2"]
    rare = ["validation.every=0", "checkpoint.every=0", "log_every=1", f"steps={STEPS}"]
    return smoke(shards, run_dir, f"zero=stage{stage}", *growing, *rare, *more)


@pytest.mark.parametrize("stage", [1, 3])
def test_it_trains_as_a_plain_loop_does_and_over_a_resume_in_its_warm_up(shards, tmp_path, stage):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    Job(straight, *settings(shards, straight, stage)).succeeded()
    found = [loss for _, loss in sorted(losses(straight).items())]
    assert found == pytest.approx(plain_losses(shards, STEPS, rows=tuple(ROWS)), rel=1e-5)
    assert found != pytest.approx(plain_losses(shards, STEPS), rel=1e-5), "short rows change the loss"
    rows = [row["optim/row_tokens"] for row in metric_rows(straight) if "optim/row_tokens" in row]
    assert rows == [*ROWS[1:], 64]

    Job(stopped, *settings(shards, stopped, stage, "stop_at=6")).succeeded()
    Job(stopped, *settings(shards, stopped, stage)).succeeded()
    assert losses(stopped) == losses(straight)
    assert state_files(stopped, STEPS) == state_files(straight, STEPS)
    check_ledger([f"run_dir={stopped}"])
