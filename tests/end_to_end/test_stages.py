"""Every ZeRO stage on two ranks trains as a plain torch loop on one process does."""

import pytest
from plain_loop import plain_losses
from trainer_job import Job, losses, smoke

pytestmark = pytest.mark.slow

STEPS = 50


@pytest.fixture(scope="module")
def plain(shards):
    """The losses of a loop without DeepSpeed, ranks, accumulation or our optimizer's construction."""
    return plain_losses(shards, STEPS)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_losses_agree_with_a_plain_torch_loop(shards, tmp_path, plain, stage):
    run_dir = tmp_path / "run"
    rare = ["validation.every=0", "checkpoint.every=0"]
    Job(run_dir, *smoke(shards, run_dir, f"zero=stage{stage}", f"steps={STEPS}", *rare)).succeeded()
    ours = [loss for _, loss in sorted(losses(run_dir).items())]
    assert ours == pytest.approx(plain, rel=1e-5)
