"""What a real run leaves for Weights & Biases, and that it can do without."""

import fnmatch
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from trainer_job import PLANTED, Job, losses, metric_rows, smoke

from conf.exits import Exit
from pretrain.watching.run_log import read_run
from pretrain.watching.run_page import data_text
from pretrain.watching.run_summary import settings

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


@pytest.mark.parametrize(("corpus", "compared"), [("stdlib", True), ("news", False)])
def test_the_distance_to_a_reference_is_logged_on_its_own_corpus_alone(shards, tmp_path, corpus, compared):
    folder = shutil.copytree(shards.parent, tmp_path / "shards")
    index = json.loads(shards.read_text())
    index["config"]["corpus"]["name"] = corpus
    (folder / "index.json").write_text(json.dumps(index))
    run_dir = tmp_path / "run"
    job = Job(tmp_path, *smoke(folder / "index.json", run_dir, "steps=2", "reference=demo"), ranks=1)
    job.succeeded()
    assert settings(read_run(run_dir))["corpora"] == [corpus]
    assert any("val/loss_behind" in row for row in metric_rows(run_dir)) == compared
    assert ("no distance to the demo as measured: the run reads news, not stdlib" in job.output()) != compared


def benchmarks(folder: Path) -> list[str]:
    """Return the settings that have two benchmarks taken, of one record each."""
    hellaswag = {"activity_label": "a", "ctx_a": "It was", "ctx_b": "he", "endings": list("abcd"), "label": 1}
    files = {"hellaswag": {**hellaswag, "ctx": "It was he"}, "lambada": {"text": "It was he"}}
    for name, record in files.items():
        (folder / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    named = ",".join(f"{name}:{folder / name}.jsonl" for name in files)
    return ["evaluation.tasks=[hellaswag,lambada]", f"evaluation.files={{{named}}}"]


def test_every_panel_shows_something_that_the_trainer_logs(shards, tmp_path):
    from pretrain.watching.panels import METRICS

    mix = f"data.mix=[{{index:{shards},weight:3,name:one}},{{index:{shards},weight:1,name:other}}]"
    order = smoke(shards, tmp_path / "run", "steps=6", "norms.every=2", "recompute=full")
    order += ["data.index=null", mix, *benchmarks(tmp_path)]
    Job(tmp_path, *order, "stop_at=3", ranks=1).succeeded()
    Job(tmp_path, *order, ranks=1).succeeded()
    logged = {name for row in metric_rows(tmp_path / "run") for name in row}
    on_a_cpu = [
        metric for metric in METRICS if not metric.startswith(("gpu/", "mem/")) or metric == "mem/host_gib"
    ]
    on_a_cpu.remove("val/loss_behind")  # not of a mixture; the test above has it
    assert [metric for metric in on_a_cpu if not fnmatch.filter(logged, metric)] == []
    assert {"layers/h.1/grad_norm", "layers/wte/update_norm"} <= logged


def test_all_ranks_report_when_rank_0_has_been_silent_for_too_long(shards, tmp_path):
    """A report is collective: were it not agreed upon, the ranks would wait for each other."""
    order = smoke(shards, tmp_path / "run", "steps=8", "log_every=100", "validation.every=0")
    Job(tmp_path, *order, program=PLANTED, PLANT="hurry@0#0").succeeded()
    assert list(losses(tmp_path / "run")) == [2, 3, 4, 5, 6, 7, 8]


def test_the_record_names_every_attempt(shards, tmp_path):
    run_dir = tmp_path / "run"
    Job(tmp_path, *smoke(shards, run_dir, "steps=6", "stop_at=3"), ranks=1).succeeded()
    Job(tmp_path, *smoke(shards, run_dir, "steps=6"), ranks=1).succeeded()
    attempts = [json.loads(line) for line in (run_dir / "attempts.jsonl").read_text().splitlines()]
    assert [each["attempt"] for each in attempts if "overrides" in each] == [0, 1]
    assert [(each["ranks"], each["device"]) for each in attempts if "overrides" in each] == [(1, "cpu")] * 2
    assert {row["attempt"] for row in metric_rows(run_dir)} == {0, 1}
    assert list(losses(run_dir)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("no_wandb_settings")
@pytest.mark.soak  # the client sends about every 15 s
def test_three_attempts_are_one_run_of_wandb_and_are_marked_on_the_page(shards, tmp_path, monkeypatch):
    """The first is killed, the second leaves to be started again, the third trains to the end."""
    monkeypatch.syspath_prepend(READER)
    from local_wandb import LocalWandb

    run_dir = tmp_path / "run"
    patient = ["tracking.init_timeout_seconds=90", "tracking.finish_timeout_seconds=90"]
    often = ["steps=700", "checkpoint.every=50", "validation.every=500"]
    with LocalWandb() as service:

        def job() -> Job:
            order = smoke(shards, run_dir, *often, "tracking=online", *patient)
            return Job(tmp_path, *order, ranks=1, NETRC=os.devnull, **service.environment)

        def rows() -> list[dict[str, Any]]:
            return [row for run in service.runs.values() for row in run.history if "train/loss" in row]

        first = job()
        assert first.reaches(rows)
        assert first.kill() == [-signal.SIGKILL]
        seen, second = len(rows()), job()
        assert second.reaches(lambda: len(rows()) > seen)
        second.trainers()[0].send_signal(signal.SIGUSR1)
        assert second.wait() == [Exit.REQUEUE]
        job().succeeded()
        assert (len(service.runs), service.unknown) == (1, [])
    assert {row["attempt"] for row in rows()} == {0, 1, 2}
    assert losses_by_step(rows()) == losses(run_dir)
    shown = json.loads(data_text([read_run(run_dir)], live=False))["runs"][0]
    assert [each["number"] for each in shown["attempts"]] == [0, 1, 2]


def losses_by_step(rows: list[dict[str, Any]]) -> dict[int, float]:
    """Return the loss of each step, ascending, as a reader does: the later attempt's word counts."""
    kept: dict[int, float] = {}
    for row in rows:
        kept = {step: loss for step, loss in kept.items() if step < row["step"]}
        kept[row["step"]] = row["train/loss"]
    return kept
