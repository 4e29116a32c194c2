"""What a real run leaves for Weights & Biases, and that it can do without."""

import json
import os
from pathlib import Path

import pytest
from trainer_job import Job, losses, metric_rows, smoke

pytestmark = pytest.mark.slow

READER = Path(__file__).parents[1] / "pretrain" / "watching"


def test_the_offline_file_holds_every_logged_step(shards, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(READER)
    from wandb_file import read

    Job(tmp_path, *smoke(shards, tmp_path / "run", "steps=6", "tracking=offline"), ranks=1).succeeded()
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    history = read(folder).history
    ours = losses(tmp_path / "run")
    theirs = {row["step"]: row["train/loss"] for row in history if "train/loss" in row}
    assert theirs == ours
    assert list(ours) == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in history if "val/loss" in row] == [0, 6]


def test_a_run_without_tracking_needs_no_wandb(shards, tmp_path):
    broken = tmp_path / "without_wandb"
    broken.mkdir()
    (broken / "wandb.py").write_text("raise ImportError('wandb is not installed')\n")
    run_dir = tmp_path / "run"
    settings = smoke(shards, run_dir, "steps=6", "tracking=disabled")
    job = Job(
        tmp_path, *settings, ranks=1, cold=True, PYTHONPATH=f"{broken}:{os.environ.get('PYTHONPATH', '')}"
    )
    job.succeeded()
    assert len(losses(run_dir)) == 6
    assert "wandb" not in job.output().lower()


def test_every_panel_shows_something_that_the_trainer_logs(shards, tmp_path):
    from pretrain.watching.panels import METRICS

    order = smoke(shards, tmp_path / "run", "steps=6", "norms.every=2", "reference=demo")
    Job(tmp_path, *order, "stop_at=3", ranks=1).succeeded()
    Job(tmp_path, *order, ranks=1).succeeded()
    logged = {name for row in metric_rows(tmp_path / "run") for name in row}
    on_a_cpu = {
        metric for metric in METRICS if not metric.startswith(("gpu/", "mem/")) or metric == "mem/host_gib"
    }
    assert on_a_cpu - logged == set()
    assert {"layers/h.1/grad_norm", "layers/wte/update_norm"} <= logged


def test_the_record_names_every_attempt(shards, tmp_path):
    run_dir = tmp_path / "run"
    Job(tmp_path, *smoke(shards, run_dir, "steps=6", "stop_at=3"), ranks=1).succeeded()
    Job(tmp_path, *smoke(shards, run_dir, "steps=6"), ranks=1).succeeded()
    attempts = [json.loads(line) for line in (run_dir / "attempts.jsonl").read_text().splitlines()]
    assert [each["attempt"] for each in attempts if "overrides" in each] == [0, 1]
    assert {row["attempt"] for row in metric_rows(run_dir)} == {0, 1}
    assert list(losses(run_dir)) == [1, 2, 3, 4, 5, 6]
