"""A run's numbers reach the record and W&B's own file, without secrets and without blocking."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tracked import offline_files, recorded_steps, tracked

from pretrain.watching.tracking import TrackingConfig, open_tracker


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", os.devnull)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def tracker_in(
    run_dir: Path, mode: str = "disabled", say: Callable[[str], None] = lambda _: None, **options: Any
):
    config = TrackingConfig(wandb=mode)
    return open_tracker(
        config, run_dir, **{"settings": {}, "attempt": 0, "primary": True, "say": say, **options}
    )


# The record


def test_a_disabled_run_records_everything_without_wandb_or_torch(tmp_path: Path):
    program = f"""
import sys
sys.modules["wandb"] = None
from pathlib import Path
from pretrain.watching.tracking import TrackingConfig, open_tracker
config = TrackingConfig(wandb="disabled")
tracker = open_tracker(config, Path({str(tmp_path)!r}), settings={{}}, attempt=0, primary=True)
tracker.log(1, 10, {{"train/loss": 3.0}})
tracker.finish()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert recorded_steps(tmp_path) == [1]


def test_ranks_that_are_not_primary_leave_no_trace(tmp_path: Path):
    tracker = tracker_in(tmp_path / "run", primary=False)
    tracker.log(1, 1, {"train/loss": float("nan")})
    tracker.alert("title", "text")
    tracker.event("checkpoint", step=1)
    tracker.finish()
    assert not (tmp_path / "run").exists()


def test_settings_events_alerts_and_the_end_are_lines_of_the_record(tmp_path: Path):
    tracker = tracker_in(tmp_path, settings={"steps": 5})
    tracker.event("checkpoint", step=3, seconds=1.5)
    tracker.alert("slow", "very", "INFO")
    tracker.finish(75)
    tracker.finish()
    found = [{key: value for key, value in line.items() if key != "time"} for line in lines(tmp_path)]
    assert found == [
        {"attempt": 0, "event": "started", "settings": {"steps": 5}},
        {"attempt": 0, "event": "checkpoint", "step": 3, "seconds": 1.5},
        {"attempt": 0, "alert": "slow", "text": "very", "level": "INFO"},
        {"attempt": 0, "event": "stopped", "exit_code": 75},
    ]


def test_a_non_finite_loss_is_valid_json_and_alerts_once_per_episode(tmp_path: Path):
    said: list[str] = []
    tracker = tracker_in(tmp_path, say=said.append)
    for step, loss in enumerate([3.0, float("nan"), float("inf"), 3.0, float("nan")], 1):
        tracker.log(step, step, {"train/loss": loss})
    tracker.finish()
    assert [line["train/loss"] for line in lines(tmp_path) if "step" in line] == [
        3.0,
        "nan",
        "inf",
        3.0,
        "nan",
    ]
    assert [line["text"] for line in lines(tmp_path) if "alert" in line] == [
        "train/loss=nan at step 2",
        "train/loss=nan at step 5",
    ]
    assert said[0] == "ERROR: non-finite loss: train/loss=nan at step 2"


def test_a_spike_alerts_and_its_measure_survives_a_restart(tmp_path: Path):
    tracker = tracker_in(tmp_path)
    for step in range(1, 101):
        tracker.log(step, step, {"train/loss": 3 + 0.01 * (step % 5)})
    tracker.finish()
    tracker = tracker_in(tmp_path, attempt=1)
    tracker.log(101, 101, {"train/loss": 4.0})
    tracker.finish()
    (alert,) = [line for line in lines(tmp_path) if "alert" in line]
    assert alert["alert"] == "loss spike"
    assert alert["attempt"] == 1
    assert [line["health/loss_z"] > 6 for line in lines(tmp_path) if "step" in line][-1]


@pytest.mark.parametrize(("alike", "alerts"), [({0, 2}, ["slow"]), ({1}, []), ((), [])])
def test_what_is_slow_is_known_after_a_restart_from_attempts_of_the_same_kind(
    alike: set[int], alerts: list[str], tmp_path: Path
):
    for attempt, speed in enumerate([1e6, 0.5e6, 1e6]):
        tracker = tracker_in(tmp_path, attempt=attempt, alike=alike)
        for step in range(100 * attempt, 100 * attempt + 20):
            tracker.log(step, step, {"perf/tokens_per_s": speed})
        tracker.finish()
    tracker = tracker_in(tmp_path, attempt=3, alike=alike)
    for step in range(300, 305):
        tracker.log(step, step, {"perf/tokens_per_s": 0.6e6})
    tracker.finish()
    assert [line["alert"] for line in lines(tmp_path) if "alert" in line and line["attempt"] == 3] == alerts


def test_no_secret_reaches_any_output(tmp_path: Path):
    settings = {
        "data": {"index": "s3://user:canary-url@host/index.json", "hf_token": "canary-token"},
        "alerts": {"webhook": "https://hooks.example.com/canary-webhook"},
        "command": "train password=canary-command x=canary-environment",
        "tokens_per_step": 524288,
    }
    alert = ["upload failed", "https://me:canary-alert@host answered canary-environment", "WARN"]
    environment = {"SOME_SERVICE_TOKEN": "canary-environment", "WANDB_API_KEY": "canary" + "0" * 34}
    order = {"settings": settings, "alerts": [alert], "event": "api_key=canary-event"}
    child = tracked(tmp_path, environment, last=50, config={"wandb": "offline"}, **order)
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(written) > 3
    assert [path for path, data in written.items() if b"canary" in data] == []
    assert "canary" not in child.says
    assert any(b"524288" in data for data in written.values())


def test_the_config_names_the_modes_it_knows():
    with pytest.raises(ValueError, match="'of'; choose one of: auto, online, offline, disabled"):
        TrackingConfig(wandb="of")


# Weights & Biases, offline


def test_offline_every_logged_step_is_in_wandbs_file(tmp_path: Path):
    child = tracked(
        tmp_path,
        last=200,
        config={"wandb": "offline", "project": "p"},
        settings={"optim": {"lr": 1e-3}},
        alerts=[["slow", "very", "WARN"]],
        exit_code=3,
    )
    assert child.exit_code == 0, child.says
    (found,) = offline_files(tmp_path)
    assert [(row["step"], row["tokens"], row["attempt"]) for row in found.history] == [
        (step, step * 1000, 0) for step in range(1, 201)
    ]
    assert found.history[9]["train/loss"] == 3.1
    assert found.run_id == (tmp_path / "wandb_id").read_text().strip()
    assert (found.project, found.config["optim"]) == ("p", {"lr": 1e-3})
    assert found.step_metrics["*"] == "step"
    assert found.alerts == [("WARN", "slow", "very")]
    assert found.exit_code == 3


def test_auto_without_a_key_records_offline_and_says_so_in_one_line(tmp_path: Path):
    child = tracked(tmp_path, last=20, config={"wandb": "auto"})
    assert child.exit_code == 0
    assert [len(found.history) for found in offline_files(tmp_path)] == [20]
    fallback = [line for line in child.says.splitlines() if "recording offline" in line]
    assert len(fallback) == 1
    assert "WANDB_API_KEY" in fallback[0]


def test_online_without_a_key_trains_on_and_says_what_to_do(tmp_path: Path):
    child = tracked(tmp_path, last=20, config={"wandb": "online"})
    assert child.exit_code == 0
    assert recorded_steps(tmp_path) == list(range(1, 21))
    assert "wandb login" in child.says


def test_a_missing_wandb_is_said_once_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    said: list[str] = []
    tracker = tracker_in(tmp_path, "offline", said.append)
    tracker.log(1, 1, {"train/loss": 3.0})
    tracker.finish()
    assert recorded_steps(tmp_path) == [1]
    assert len(said) == 1
    assert "pip install wandb" in said[0]


@pytest.mark.slow
def test_sigkill_costs_the_record_nothing_and_wandb_at_most_the_last_two_seconds(tmp_path: Path):
    child = tracked(tmp_path, last=400, pause=0.02, kill_self_at=300, config={"wandb": "offline"})
    assert child.exit_code == -9
    assert recorded_steps(tmp_path) == list(range(1, 301))
    (found,) = offline_files(tmp_path)
    kept = [row["step"] for row in found.history]
    assert kept == list(range(1, len(kept) + 1))
    rows_in_two_seconds = 100
    assert len(kept) >= 300 - 1.5 * rows_in_two_seconds


def test_a_directory_that_wandb_cannot_write_is_said_once_and_costs_nothing(tmp_path: Path):
    (tmp_path / "wandb").symlink_to("/proc/self")  # where not even root may create a file
    said: list[str] = []
    tracker = tracker_in(tmp_path, "offline", said.append)
    tracker.log(1, 1, {"train/loss": 3.0})
    tracker.finish()
    assert recorded_steps(tmp_path) == [1]
    assert len(said) == 1
    assert "metrics.jsonl has everything" in said[0]
