"""One command from text to a trained model, and what the chain does when a part of it fails."""

import json
import os
import sys

import pytest
from omegaconf import OmegaConf
from slurm_cluster import Cluster
from training import ROOT, made_texts, read

from conf.quoting import quoted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUN = "it's a run, $1=[2]"


@pytest.fixture
def command(cluster: Cluster, tmp_path) -> list[str]:
    """Return a submission that prepares five files of a megabyte of text, in odd places."""
    texts = os.path.relpath(made_texts(tmp_path / "some text"), ROOT)  # from where it is submitted
    return [
        sys.executable,
        "-m",
        "slurm.submit",
        "experiment=smoke",
        "cluster=test",
        f"run_dir={quoted(tmp_path / RUN)}",
        "prepare.corpus=text",
        f"prepare.corpus.paths=['{texts}']",
        "prepare.packing.block_tokens=4096",
        "steps=6",
        "batch.tokens=256",
    ]


def test_one_command_prepares_trains_and_evaluates(cluster, command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = cluster.tried(*command, "--watch")
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / RUN
    jobs = json.loads((run / "slurm" / "jobs.json").read_text())
    assert list(jobs) == ["prepare", "finalize", "train"]
    assert len(list((run / "slurm" / "logs").glob("*-prepare-*"))) == 4
    assert (run / "data" / "index.json").exists()
    lines = read(run / "attempts.jsonl")
    assert [line["event"] for line in lines] == ["launch", "begin", "end", "outcome"]
    assert lines[1]["ranks"] == 4
    assert [row["step"] for row in read(run / "metrics.jsonl") if "val/loss" in row][-1] == 6
    assert json.loads((run / "slurm" / "code" / "commit.json").read_text())["commit"]
    assert OmegaConf.load(run / "config.yaml").data.index == f"{run}/data/index.json"
    assert "<html" in (run / "page.html").read_text()[:1000]
    again = cluster.tried(*command)
    assert again.returncode == 10
    assert "has trained all its steps" in again.stderr


def test_the_same_run_is_not_submitted_twice(cluster, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    command.append("cluster.slurm.prepare.sbatch=[--hold]")
    assert cluster.tried(*command).returncode == 0
    held = sorted(cluster.ask("squeue", "--noheader", "--format=%A").split())
    assert len(held) == 3
    done = cluster.tried(*command)
    assert done.returncode == 10
    for job in held:
        assert f"job {job} (" in done.stderr
    assert sorted(cluster.ask("squeue", "--noheader", "--format=%A").split()) == held


def test_only_the_array_task_that_failed_is_repeated(cluster, command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    failed = tmp_path / "failed"
    first = f"[[ $(printenv SLURM_ARRAY_TASK_ID) == 2 && ! -e {failed} ]]"
    fault = f"if {first}; then touch {failed}; echo planted fault; exit 9; fi"
    done = cluster.tried(*command, f'cluster.slurm.setup=["{fault}"]', "--only", "prepare", "--watch")
    run = tmp_path / RUN / "slurm"
    assert done.returncode == 0, done.stdout + done.stderr
    log = next((run / "logs").glob("*-finalize-*")).read_text()
    assert "round 1: repeating tasks 2\n" in log
    assert (tmp_path / RUN / "data" / "index.json").exists()
    assert len(list((run / "logs").glob("*-prepare-*_2.log"))) == 2
    assert len(list((run / "logs").glob("*-prepare-*"))) == 5


def test_a_task_that_always_fails_stops_the_chain_and_shows_its_log(cluster, command, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    fault = "if [[ $(printenv SLURM_ARRAY_TASK_ID) == 2 ]]; then echo planted fault; exit 9; fi"
    done = cluster.tried(*command, f'cluster.slurm.setup=["{fault}"]', "--watch")
    assert done.returncode == 1
    assert "planted fault" in done.stdout
    assert "finalize failed, train cancelled" in done.stdout
    jobs = json.loads((tmp_path / RUN / "slurm" / "jobs.json").read_text())
    assert cluster.fact(jobs["finalize"], "ExitCode") == "11:0"
    assert not (tmp_path / RUN / "run.json").exists()
