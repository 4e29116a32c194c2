"""A real run that goes wrong tells a person so, once for each cause; one that goes well says it is done."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trainer_job import PLANTED, Job, metric_rows, smoke

from conf.exits import Exit
from pretrain.reporting.scorecard import scorecard
from pretrain.reporting.sections import document
from pretrain.watching.run_log import read_run

pytestmark = pytest.mark.slow

WATCHING = Path(__file__).parents[1] / "pretrain" / "watching"


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(WATCHING)
    from chat import Chat

    with Chat() as service:
        yield service


def in_file(run_dir: Path) -> list[str]:
    return [json.loads(line)["alert"] for line in (run_dir / "alerts.jsonl").read_text().splitlines()]


def without_pace(titles: list[str]) -> list[str]:
    """Leave out what a busy machine may cause in steps of a few milliseconds."""
    return [title for title in titles if title not in ("slow", "waiting for data", "low disk")]


def test_a_run_whose_loss_is_not_finite_says_so_and_how_it_ended(shards, tmp_path, chat):
    run_dir = tmp_path / "run"
    order = smoke(shards, run_dir, "tracking=disabled", "steps=100", "log_every=10")
    job = Job(tmp_path, *order, ranks=1, program=PLANTED, PLANT="poison@6", **chat.environment)
    assert job.wait() == [Exit.NON_FINITE]
    told = ["steps are skipped", "non-finite loss", "failed"]
    assert without_pace(chat.titles()) == without_pace(in_file(run_dir)) == told
    assert "[exit 14]" in chat.messages[-1]
    assert document(scorecard(read_run(run_dir), None, usd_per_gpu_hour=None)).verdict == "Diverged"
    assert chat.url not in job.output()


def test_a_run_that_hangs_is_told_before_and_after_it_is_ended(shards, tmp_path, chat):
    run_dir = tmp_path / "run"
    order = smoke(shards, run_dir, "tracking=disabled", "watchdog.step_seconds=4", "watchdog.times_median=1")
    job = Job(tmp_path, *order, ranks=1, program=PLANTED, PLANT="hang@4", **chat.environment)
    assert job.wait() == [Exit.HANG]
    assert without_pace(chat.titles()) == without_pace(in_file(run_dir)) == ["stall", "failed"]
    assert "rank 0 hangs" in chat.messages[-1]
    ends = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert (ends[-1]["event"], ends[-1]["exit_code"]) == ("stopped", Exit.HANG)


def test_a_run_that_is_stopped_and_goes_on_says_requeue_and_finished(shards, tmp_path, chat):
    run_dir = tmp_path / "run"
    order = smoke(shards, run_dir, "tracking=disabled")
    failing = "commit.renamed:eio"  # the first state finds a disk that refuses it
    job = Job(tmp_path, *order, "checkpoint.every=2", ranks=1, FAULTS=failing, **chat.environment)
    while len(metric_rows(run_dir)) < 5:
        assert job.running(), job.output()
        time.sleep(0.05)
    os.kill(job.processes[0].pid, signal.SIGTERM)
    assert job.wait() == [Exit.REQUEUE]
    Job(tmp_path, *order, "stop_at=9", ranks=1, **chat.environment).succeeded()
    told = ["a checkpoint was not saved", "requeue", "finished"]
    assert without_pace(chat.titles()) == without_pace(in_file(run_dir)) == told
    assert f"[INFO] {run_dir.name}: finished: done, after step" in chat.messages[-1]


def test_a_rank_that_lags_is_one_title_and_its_number_is_in_the_text(shards, tmp_path, chat):
    """A title is always in the same words: a chat is told of it once an hour, whichever rank it is."""
    run_dir = tmp_path / "run"
    order = smoke(shards, run_dir, "tracking=disabled", "steps=24", "validation.every=0")
    order.append("batch.micro_sequences=4")  # one forward pass in a step
    Job(tmp_path, *order, program=PLANTED, PLANT="lag@0#1", **chat.environment).succeeded()
    assert without_pace(chat.titles()) == without_pace(in_file(run_dir)) == ["a rank lags behind", "finished"]
    assert any("a rank lags behind: rank 1 needs " in message for message in chat.messages)
