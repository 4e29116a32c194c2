"""Every alert fires once on its cause, and never on a clean run."""

import math
import random

import pytest
from made_runs import STEPS, metrics_at

from pretrain.watching.watch import Alert, Watch

CLEAN = {
    "train/loss": 3.0,
    "perf/tokens_per_s": 1e6,
    "perf/data_wait_frac": 0.01,
}


def alerts_of(reports: list[dict[str, float]]) -> list[tuple[int, Alert]]:
    watch = Watch()
    return [(step, alert) for step, report in enumerate(reports, 1) for alert in watch.look(step, report)[1]]


def clean(count: int) -> list[dict[str, float]]:
    noise = random.Random(0)
    return [{**CLEAN, "train/loss": 3 + noise.gauss(0, 0.02)} for _ in range(count)]


def test_a_clean_run_of_a_thousand_steps_gives_no_alert():
    noise = random.Random(0)
    assert alerts_of([metrics_at(step, noise, 6e-4) for step in range(1, STEPS + 1)]) == []


@pytest.mark.parametrize(
    ("cause", "title", "level", "reports_until_told"),
    [
        ({"train/loss": math.nan}, "non-finite loss", "ERROR", 1),
        ({"train/loss": 9.0}, "loss spike", "WARN", 1),
        ({"perf/tokens_per_s": 0.6e6}, "slow", "WARN", 3),
        ({"perf/data_wait_frac": 0.2}, "waiting for data", "WARN", 3),
    ],
)
def test_a_cause_is_told_once_and_again_when_it_returns(
    cause: dict[str, float], title: str, level: str, reports_until_told: int
):
    bad = [{**CLEAN, **cause}] * reports_until_told
    found = alerts_of([*clean(60), *bad, *clean(50), *bad])
    assert [(step, alert.title, alert.level) for step, alert in found] == [
        (60 + reports_until_told, title, level),
        (110 + 2 * reports_until_told, title, level),
    ]


def test_a_spike_hides_no_loss_that_is_not_finite_and_is_told_once_around_it():
    spike, nan = {**CLEAN, "train/loss": 9.0}, {**CLEAN, "train/loss": math.nan}
    found = alerts_of([*clean(60), spike, nan, nan, nan])
    assert [(step, alert.title, alert.level) for step, alert in found] == [
        (61, "loss spike", "WARN"),
        (62, "non-finite loss", "ERROR"),
    ]
    titles = [
        alert.title for _, alert in alerts_of([*clean(60), nan, spike, nan, {**spike, "train/loss": 90.0}])
    ]
    assert titles == ["non-finite loss", "loss spike", "non-finite loss"]


@pytest.mark.parametrize("cause", [{"perf/tokens_per_s": 0.6e6}, {"perf/data_wait_frac": 0.2}])
def test_two_bad_reports_are_no_trend(cause: dict[str, float]):
    assert alerts_of([*clean(60), {**CLEAN, **cause}, {**CLEAN, **cause}, *clean(10)]) == []


def test_a_new_slower_pace_becomes_the_usual_one():
    slow = {**CLEAN, "perf/tokens_per_s": 0.5e6}
    found = alerts_of([*clean(20), *[slow] * 100, {**slow, "perf/tokens_per_s": 0.45e6}])
    assert [step for step, _ in found] == [23]


def test_a_run_that_is_slow_by_fits_is_told_once_until_it_is_well_for_three_reports():
    slow = {**CLEAN, "perf/tokens_per_s": 0.5e6}
    fits = [slow, slow, slow, CLEAN, slow, slow, slow, CLEAN, CLEAN, slow, slow, slow]
    assert [step for step, _ in alerts_of([*clean(20), *fits])] == [23]
    assert [step for step, _ in alerts_of([*clean(20), *fits, *clean(3), slow, slow, slow])] == [23, 38]
