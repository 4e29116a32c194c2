import dataclasses
import math
import time

import pytest
import torch

from pretrain.checkpoint import Progress
from pretrain.distributed import World
from pretrain.engine import StepResult
from pretrain.meter import Meter, Scale, perplexity
from pretrain.stream.data import Batch
from pretrain.stream.skips import Skip

SCALE = Scale(parameters=50, flops_per_token=300.0, peak_flops=1e6, clip_norm=2.5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the test set the time: its one element is what the clock says."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def result(loss: float, *, norm: float = 1.0, skipped: bool = False) -> StepResult:
    return StepResult(
        torch.tensor(loss, dtype=torch.float64), torch.tensor(norm), torch.tensor(float(skipped))
    )


def batch(*, waited: float = 0.0, epoch: int = 0) -> Batch:
    return Batch([], epoch, waited, "")


def test_a_report_is_the_mean_loss_and_the_rates_of_the_steps_since_the_last_one(
    world: World, clock: list[float]
):
    meter = Meter(SCALE, world)
    meter.resume()
    for loss, norm in ((5.0, 3.0), (4.0, 2.0)):
        meter.add(result(loss, norm=norm), batch(waited=0.25), 1e-3, tokens=1000)
        clock[0] += 2.0
    assert meter.pause() == pytest.approx(4.0)
    found = meter.report(Progress(step=40, tokens=40_000), tokens_to_go=60_000)
    assert found["train/loss"] == pytest.approx(4.5)
    assert found["train/ppl"] == pytest.approx(math.exp(4.5))
    assert found["optim/grad_norm"] == 2.0, "the last step's"
    assert found["optim/grad_norm_max"] == 3.0
    assert found["optim/clipped_frac"] == 0.5, "only one was above 2.5"
    assert found["optim/lr"] == 1e-3
    assert found["perf/step_s"] == pytest.approx(2.0)
    assert found["perf/tokens_per_s"] == pytest.approx(500.0)
    assert found["perf/mfu"] == pytest.approx(500 * 300 / 1e6)
    assert "perf/hfu" not in found, "nothing is computed twice"
    assert found["perf/data_wait_s"] == pytest.approx(0.25)
    assert found["perf/data_wait_frac"] == pytest.approx(0.125)
    assert found["total/pflops"] == pytest.approx(40_000 * 300 / 1e15)
    assert found["time/eta_h"] == pytest.approx(60 * 2 / 3600)
    assert found["progress/chinchilla"] == pytest.approx(40_000 / (20 * 50))


def test_what_is_computed_twice_is_work_of_the_hardware_alone(world: World, clock: list[float]):
    meter = Meter(dataclasses.replace(SCALE, recomputed_flops_per_token=60.0), world)
    meter.resume()
    meter.add(result(1.0), batch(), 1e-3, tokens=1000)
    clock[0] += 2.0
    meter.pause()
    found = meter.report(Progress(), tokens_to_go=60_000)
    assert found["perf/mfu"] == pytest.approx(500 * 300 / 1e6)
    assert found["perf/hfu"] == pytest.approx(500 * 360 / 1e6)


def test_sequences_that_are_left_out_are_masked_targets(world: World, clock: list[float]):
    meter = Meter(SCALE, world)
    two = [torch.zeros(2, 5, dtype=torch.int64)] * 2
    for skips in ((), (Skip(7, 0, 1, "damaged"),), ()):
        meter.resume()
        meter.add(result(1.0), Batch(two, 0, 0.0, "", skips), 1e-3, tokens=1000)
        clock[0] += 1.0
        meter.pause()
        if skips:
            assert meter.report(Progress(), tokens_to_go=1)["data/masked_frac"] == pytest.approx(1 / 8)
    assert meter.report(Progress(), tokens_to_go=1)["data/masked_frac"] == 0.0


@pytest.mark.parametrize("loss", [math.inf, 1e4])
def test_a_perplexity_that_fits_no_number_is_a_very_large_one(loss: float):
    assert perplexity(loss) == math.exp(700)
    assert math.isnan(perplexity(math.nan))


def test_what_lies_between_pause_and_resume_does_not_count(world: World, clock: list[float]):
    meter = Meter(SCALE, world)
    meter.resume()
    meter.add(result(1.0), batch(), 1e-3, tokens=1000)
    clock[0] += 1.0
    meter.pause()
    clock[0] += 50.0  # a validation
    meter.resume()
    meter.add(result(1.0), batch(), 1e-3, tokens=1000)
    clock[0] += 1.0
    meter.pause()
    assert meter.report(Progress(), tokens_to_go=60_000)["perf/step_s"] == pytest.approx(1.0)


def test_a_report_begins_anew_but_for_the_skipped_steps(world: World, clock: list[float]):
    meter = Meter(SCALE, world)
    for loss, skipped, epoch in ((9.0, True, 0), (3.0, False, 1)):
        meter.resume()
        meter.add(result(loss, skipped=skipped), batch(waited=1.0 - epoch, epoch=epoch), 1e-3, tokens=1000)
        clock[0] += 1.0
        meter.pause()
        found = meter.report(Progress(), tokens_to_go=60_000)
    assert found["train/loss"] == 3.0
    assert found["perf/step_s"] == pytest.approx(1.0)
    assert found["perf/data_wait_s"] == 0.0
    assert found["optim/skipped_steps"] == 1.0
    assert found["data/epoch"] == 1.0


def test_taking_in_a_step_does_not_wait_for_the_device(world: World):
    """A tensor without data, as one whose kernel has not run yet: reading it would fail."""
    meta = torch.empty((), device="meta")
    Meter(SCALE, world).add(StepResult(meta, meta, meta), batch(), 1e-3, tokens=1000)


def test_goodput_is_the_share_of_the_runs_life_that_was_training(world: World, clock: list[float]):
    meter = Meter(SCALE, world)
    meter.add(result(1.0), batch(), 1e-3, tokens=1000)
    clock[0] += 1.0
    meter.pause()
    found = meter.report(Progress(productive_seconds=50.0, began_at=time.time() - 100), tokens_to_go=60_000)
    assert found["time/goodput"] == pytest.approx(0.5, abs=0.01)


def test_a_report_without_a_step_is_a_bug_of_ours(world: World):
    with pytest.raises(AssertionError, match="needs a step"):
        Meter(SCALE, world).report(Progress(), tokens_to_go=60_000)


def test_percentiles_are_of_single_steps_and_leave_out_what_lies_between(world: World, clock: list[float]):
    meter = Meter(SCALE, world)
    meter.resume()
    for number in range(20):
        if number == 10:
            meter.pause()
            clock[0] += 100.0  # a save
            meter.resume()
        clock[0] += 9.0 if number == 7 else 1.0
        meter.add(result(1.0), batch(), 1e-3, tokens=1000)
    meter.pause()
    found = meter.report(Progress(), tokens_to_go=60_000)
    assert (found["perf/step_s_p50"], found["perf/step_s_p95"]) == (1.0, 1.0)
    assert found["perf/step_s"] == pytest.approx(28 / 20)
    assert found["perf/tokens_per_s"] == pytest.approx(20_000 / 28)
    assert found["perf/tokens_per_s_avg"] == pytest.approx(20_000 / 128), "the save counts here"


def test_a_norm_that_is_not_finite_hides_no_other(world: World, clock: list[float]):
    meter = Meter(SCALE, world)
    meter.resume()
    for norm in (3.0, float("inf"), 1.0):
        meter.add(result(1.0, norm=norm), batch(), 1e-3, tokens=1000)
        clock[0] += 1.0
    meter.pause()
    found = meter.report(Progress(), tokens_to_go=60_000)
    assert found["optim/grad_norm_max"] == 3.0
    assert found["optim/clipped_frac"] == pytest.approx(1 / 3)
