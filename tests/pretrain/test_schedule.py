import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.schedule import ScheduleConfig, learning_rate

SHAPES = ("cosine", "wsd", "constant")


def rates(steps: int, schedule: ScheduleConfig) -> list[float]:
    return [learning_rate(step, steps, schedule) for step in range(steps)]


def test_cosine_is_torchs_own_annealing_after_the_warm_up():
    schedule = ScheduleConfig(shape="cosine", peak=3e-4, warmup_steps=20, final_fraction=0.1)
    steps = 120
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=schedule.peak)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=3e-5)
    theirs = []
    for _ in range(100):
        theirs.append(annealing.get_last_lr()[0])
        optimizer.step()
        annealing.step()
    assert rates(steps, schedule)[20:] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_warm_up_is_a_straight_line_that_begins_above_zero_and_reaches_the_peak(shape: str):
    schedule = ScheduleConfig(shape=shape, peak=1e-3, warmup_steps=10, final_fraction=0.0)
    found = rates(100, schedule)
    assert found[:10] == pytest.approx([1e-4 * n for n in range(1, 11)])
    assert found[10] == pytest.approx(1e-3)
    assert max(found) == pytest.approx(1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_warm_up_the_first_step_has_the_peak(shape: str):
    assert learning_rate(0, 10, ScheduleConfig(shape=shape, warmup_steps=0)) == pytest.approx(6e-4)


@pytest.mark.parametrize(
    ("shape", "fraction"), [("cosine", 0.1), ("cosine", 0.0), ("wsd", 0.0), ("wsd", 0.2)]
)
def test_the_floor_is_reached_where_the_run_ends(shape: str, fraction: float):
    schedule = ScheduleConfig(shape=shape, peak=1e-3, warmup_steps=10, final_fraction=fraction)
    assert learning_rate(10_000, 10_000, schedule) == pytest.approx(1e-3 * fraction, abs=1e-12)
    assert learning_rate(9_999, 10_000, schedule) == pytest.approx(1e-3 * fraction, abs=1e-6)


def test_wsd_stands_at_the_peak_and_falls_in_a_straight_line_over_the_last_fifth():
    found = rates(100, ScheduleConfig(shape="wsd", peak=1.0 / 2, warmup_steps=10, final_fraction=0.0))
    assert found[10:81] == [0.5] * 71
    assert found[80:] == pytest.approx([0.5 * (100 - step) / 20 for step in range(80, 100)])


def test_wsd_takes_the_length_of_its_decay_as_given():
    found = rates(
        100, ScheduleConfig(shape="wsd", peak=0.5, warmup_steps=0, decay_steps=4, final_fraction=0.5)
    )
    assert found[95:] == pytest.approx([0.5, 0.5, 0.4375, 0.375, 0.3125])


def test_wsd_is_the_same_in_a_longer_run_until_the_shorter_one_decays():
    schedule = ScheduleConfig(shape="wsd", warmup_steps=5, decay_steps=10)
    assert rates(100, schedule)[:90] == rates(300, schedule)[:90]


def test_constant_stays():
    assert set(rates(50, ScheduleConfig(shape="constant", peak=2e-4, warmup_steps=0))) == {2e-4}


@given(
    shape=st.sampled_from(SHAPES),
    steps=st.integers(1, 2000),
    warmup=st.integers(0, 3000),
    fraction=st.just(0.0) | st.floats(1e-9, 1),
    decay=st.none() | st.integers(1, 3000),
)
def test_the_rate_is_positive_up_to_the_end_and_never_above_the_peak(
    shape: str, steps: int, warmup: int, fraction: float, decay: int | None
):
    schedule = ScheduleConfig(shape, 1e-3, warmup, fraction, decay)
    for step in {0, steps // 2, steps - 1}:
        rate = learning_rate(step, steps, schedule)
        at_its_floor = shape == "cosine" and decay is not None and step >= max(decay, warmup)
        assert 0 <= rate <= 1e-3 * (1 + 1e-12)
        assert rate > 0 or (at_its_floor and fraction == 0)
        assert math.isfinite(rate)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": "linear"},
        {"peak": 0.0},
        {"peak": 1.0},
        {"warmup_steps": -1},
        {"final_fraction": -0.1},
        {"final_fraction": 1.1},
        {"decay_steps": 0},
    ],
)
def test_a_value_that_makes_no_schedule_is_refused(wrong: dict[str, object]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScheduleConfig(**wrong)  # pyright: ignore[reportArgumentType]


def test_a_cosine_may_reach_its_floor_before_the_end_and_stays_there():
    """GPT-3: to a tenth over 260 of 300 billion tokens (Brown et al., 2020, appendix B)."""
    schedule = ScheduleConfig(peak=1e-3, warmup_steps=10, decay_steps=260)
    assert learning_rate(259, 300, schedule) > 1e-4
    assert [learning_rate(step, 300, schedule) for step in (260, 299)] == pytest.approx([1e-4, 1e-4])
    shorter = ScheduleConfig(peak=1e-3, warmup_steps=10)
    assert learning_rate(100, 300, schedule) == learning_rate(100, 260, shorter)
