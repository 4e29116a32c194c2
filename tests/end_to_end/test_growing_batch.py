"""A run whose batch grows trains as a plain loop does, on any number of ranks, and over a resume."""

import json

import pytest
from plain_loop import plain_losses
from trainer_job import Job, losses, metric_rows, smoke, state_files

from pretrain.check_ledger import main as check_ledger

pytestmark = pytest.mark.slow

# Sequences of 64 tokens: 2, then 4 from the 11th on, 6 from the 22nd, and 8 from the 32nd.
SIZES = [2] * 6 + [4] * 3 + [6] * 2 + [8] * 5
GROWING = ["batch.tokens=512", "batch.warmup_from=128", "batch.warmup_tokens=2048"]
STEPS = len(SIZES)


def settings(shards, run_dir, stage, *more):
    rare = ["validation.every=0", "checkpoint.every=0", "log_every=1", "batch.micro_sequences=1"]
    return smoke(shards, run_dir, f"zero=stage{stage}", f"steps={STEPS}", *GROWING, *rare, *more)


@pytest.mark.parametrize("stage", [1, 3])
def test_it_trains_as_a_plain_loop_does_and_over_a_resume_in_its_warm_up(shards, tmp_path, stage):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    Job(straight, *settings(shards, straight, stage)).succeeded()
    found = [loss for _, loss in sorted(losses(straight).items())]
    assert found == pytest.approx(plain_losses(shards, STEPS, sizes=tuple(SIZES)), rel=1e-5)
    rows = [row for row in metric_rows(straight) if "optim/batch_tokens" in row]
    assert [row["optim/batch_tokens"] for row in rows] == [64 * size for size in [*SIZES[1:], 8]]
    assert [row["tokens"] for row in rows][-1] == 64 * sum(SIZES)

    Job(stopped, *settings(shards, stopped, stage, "stop_at=7")).succeeded()
    Job(stopped, *settings(shards, stopped, stage)).succeeded()
    assert losses(stopped) == losses(straight)
    assert state_files(stopped, STEPS) == state_files(straight, STEPS)
    check_ledger([f"run_dir={stopped}"])
    taken = [json.loads(line) for line in (stopped / "ledger.jsonl").read_text().splitlines()]
    assert [each["sequences"] for each in taken if "sequences" in each] == SIZES
