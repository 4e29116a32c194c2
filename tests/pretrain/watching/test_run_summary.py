"""A run's standing is told from its record alone."""

import time
from pathlib import Path

import pytest
from made_runs import QUEUE_SECONDS, STARTUP_SECONDS, STEPS, make_run

from pretrain.watching.metrics_log import MetricsLog
from pretrain.watching.run_log import read_run
from pretrain.watching.run_summary import settings, summary


def test_every_second_of_an_interrupted_run_is_accounted_for(tmp_path: Path):
    run = read_run(make_run(tmp_path, crash_at=450))
    found = summary(run, time.time())
    assert sum(found.seconds.values()) == pytest.approx(found.wall_seconds)
    assert found.seconds["productive"] == pytest.approx(STEPS * 0.4248, rel=0.01)
    assert found.seconds["startup"] == 2 * STARTUP_SECONDS
    assert found.seconds["evaluation"] == 10 * 4
    assert found.seconds["checkpoint"] == 10 * 6
    done_again = 50 * 0.4248
    assert found.seconds["lost"] == pytest.approx(QUEUE_SECONDS + done_again, rel=0.05)


def test_the_figures_are_the_newest_ones(tmp_path: Path):
    run = read_run(make_run(tmp_path, last=250, finished=False, crash_at=150))
    found = summary(run, time.time())
    assert (found.state, found.step, found.total_steps, found.attempts) == ("running", 250, STEPS, 2)
    assert found.figures["val/loss"] == run.column("val/loss")[19]
    assert found.last_alert == "loss spike: z=9.3 at step 150"


@pytest.mark.parametrize(
    ("age_seconds", "state"), [(5, "running"), (170, "running"), (200, "silent"), (100_000, "silent")]
)
def test_a_run_that_says_nothing_for_long_is_silent(age_seconds: float, state: str, tmp_path: Path):
    run = read_run(make_run(tmp_path, last=100, finished=False))
    assert summary(run, run.last_time + age_seconds).state == state


@pytest.mark.parametrize(
    ("age_seconds", "said"),
    [(240, "4 min"), (7140, "119 min"), (7200, "2 h"), (172_799, "48 h"), (800_000, "9 days")],
)
def test_silence_is_told_in_minutes_hours_or_days(age_seconds: float, said: str, tmp_path: Path):
    run = read_run(make_run(tmp_path, last=100, finished=False))
    assert summary(run, run.last_time + age_seconds).detail == f"no sign of life for {said}"


def test_slow_reports_are_not_taken_for_silence(tmp_path: Path):
    run = read_run(make_run(tmp_path, last=1000, every=100, finished=False))  # a report every 52 s
    assert summary(run, run.last_time + 600).state == "running"


@pytest.mark.parametrize(
    ("exit_code", "state", "detail"),
    [
        (0, "stopped", "paused at step 100 of 1,000"),
        (75, "stopped", "waits to be started again"),
        (14, "failed", "exit code 14"),
    ],
)
def test_an_end_says_how(exit_code: int, state: str, detail: str, tmp_path: Path):
    run_dir = make_run(tmp_path, last=100, finished=False)
    log = MetricsLog(run_dir, attempt=0, say=print)
    log.write({"event": "stopped" if exit_code else "finished", "exit_code": exit_code})
    log.close()
    found = summary(read_run(run_dir), time.time())
    assert (found.state, found.detail) == (state, detail)


def test_a_run_is_finished_when_it_has_taken_its_last_step(tmp_path: Path):
    found = summary(read_run(make_run(tmp_path)), time.time())
    assert (found.state, found.detail) == ("finished", "")


def test_a_new_attempt_ends_the_end(tmp_path: Path):
    run_dir = make_run(tmp_path, last=100)
    log = MetricsLog(run_dir, attempt=1, say=print)
    log.write({"event": "started", "settings": {}})
    log.close()
    assert summary(read_run(run_dir), time.time()).state == "running"


def test_a_run_in_its_first_seconds_is_starting(tmp_path: Path):
    log = MetricsLog(tmp_path, attempt=0, say=print)
    assert summary(read_run(tmp_path), time.time()).state == "starting"
    log.write({"event": "started", "settings": {"schedule": {"steps": 7}, "on": True}})
    log.close()
    run = read_run(tmp_path)
    found = summary(run, time.time())
    assert (found.state, found.step, found.total_steps) == ("starting", None, 7)
    assert settings(run) == {"schedule.steps": 7, "on": True}
