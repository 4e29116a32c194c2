"""A run goes on with another number of ranks and at another ZeRO stage: same batches, same losses."""

import numpy as np
import pytest
from plain_loop import plain_losses
from trainer_job import Job, losses, smoke

pytestmark = pytest.mark.slow

STEPS, CHANGE_AFTER = 50, 25
# Relative. Ranks add the same numbers in another order, and that is all.
TOLERANCE = 1e-5

CHANGES = [
    # (ranks, stage) before and after
    ((1, 1), (2, 1)),
    ((2, 3), (4, 3)),
    ((2, 3), (1, 0)),
]
SIZES = [(1, 2), (2, 1), (2, 4), (4, 2)]


def settings(shards, run_dir, stage, *more):
    rare = ["validation.every=0", "checkpoint.every=0"]
    return smoke(shards, run_dir, f"zero=stage{stage}", f"steps={STEPS}", *rare, *more)


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory):
    """The losses of a run that nobody interrupted, on one rank without ZeRO."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    Job(run_dir, *settings(shards, run_dir, 0), ranks=1).succeeded()
    return losses(run_dir)


def difference(one, other):
    """The largest relative difference between two runs' losses."""
    return max(abs(a / b - 1) for a, b in zip(one, other, strict=True))


def ulps(one, other):
    """The largest difference between two runs' losses, in units of the last place of fp32."""
    return max(abs(a - b) / np.spacing(np.float32(b)) for a, b in zip(one, other, strict=True))


def changed(shards, run_dir, before, after):
    first = settings(shards, run_dir, before[1], f"stop_at={CHANGE_AFTER}")
    Job(run_dir, *first, ranks=before[0]).succeeded()
    Job(run_dir, *settings(shards, run_dir, after[1]), ranks=after[0]).succeeded()
    assert list(losses(run_dir)) == list(range(1, STEPS + 1))
    return losses(run_dir)


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_losses_go_on_as_if_nothing_had_changed(shards, tmp_path, straight, before, after):
    found = changed(shards, tmp_path / "run", before, after)
    largest = difference(found.values(), straight.values())
    print(f"{before} → {after}: largest relative difference {largest:.1e}")
    assert largest < TOLERANCE


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_change_of_ranks_costs_no_more_than_the_cut_of_a_batch_does(
    shards, tmp_path, straight, sizes, stage
):
    """The plain loop adds its gradients over as many parts as there are ranks."""
    before, after = sizes
    found = changed(shards, tmp_path / "run", (before, stage), (after, stage))
    largest = difference(found.values(), straight.values())
    one, other = (plain_losses(shards, STEPS, pieces=ranks) for ranks in (before, after))
    plain = difference(one, other)
    print(f"{before} → {after} at stage {stage}: {largest:.2e}; plain torch {plain:.2e}")
    assert largest < TOLERANCE
    assert ulps(found.values(), straight.values()) <= ulps(one, other)
