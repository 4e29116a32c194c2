"""A run goes on with another number of ranks and at another ZeRO stage: same batches, same losses."""

import pytest
from trainer_job import Job, losses, smoke

pytestmark = pytest.mark.slow

STEPS, CHANGE_AFTER = 30, 15
# Relative. Ranks add the same numbers in another order, and that is all: a plain torch loop in fp32
# moves by up to 3e-6 over 50 steps when its batch is cut otherwise.
TOLERANCE = 1e-5

CHANGES = [
    # (ranks, stage) before and after
    ((1, 1), (2, 1)),
    ((2, 2), (1, 2)),
    ((2, 3), (4, 3)),
    ((4, 1), (2, 3)),
    ((2, 3), (2, 0)),
]


def settings(shards, run_dir, stage, *more):
    rare = ["validation.every=0", "checkpoint.every=0"]
    return smoke(shards, run_dir, f"zero=stage{stage}", f"steps={STEPS}", *rare, *more)


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory):
    """The losses of a run that nobody interrupted, on one rank without ZeRO."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    Job(run_dir, *settings(shards, run_dir, 0), ranks=1).succeeded()
    return losses(run_dir)


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_losses_go_on_as_if_nothing_had_changed(shards, tmp_path, straight, before, after):
    run_dir = tmp_path / "run"
    first = settings(shards, run_dir, before[1], f"stop_at={CHANGE_AFTER}")
    Job(run_dir, *first, ranks=before[0]).succeeded()
    Job(run_dir, *settings(shards, run_dir, after[1]), ranks=after[0]).succeeded()
    changed = losses(run_dir)
    assert list(changed) == list(straight)
    difference = max(abs(changed[step] / straight[step] - 1) for step in straight)
    print(f"{before} → {after}: largest relative difference {difference:.1e}")
    assert difference < TOLERANCE
