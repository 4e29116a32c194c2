"""Secrets that a process holds reach none of its outputs, and none is accepted as a setting."""

import os
import subprocess
import sys

import pytest
from endurance import TINY
from trainer_job import PLANTED, Job, losses

from conf.exits import Exit

pytestmark = pytest.mark.slow

_IN_THE_ENVIRONMENT = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "GITHUB_TOKEN")
PLACES = (*_IN_THE_ENVIRONMENT, "IN_USER", "IN_QUERY", "IN_OUR_ERROR")
# W&B asks for forty letters and digits.
CANARIES = {name: f"canary{number}".ljust(40, "0") for number, name in enumerate(PLACES)}


def test_no_output_of_a_run_holds_a_secret(other_index, tmp_path):
    run_dir = tmp_path / "run"
    shown = ["tracking=offline", "validation.every=0", "steps=8", f"data.index={other_index}"]
    settings = [*TINY, *shown, f"run_dir={run_dir}"]
    environment = {**CANARIES, "PLANT": "crash-with-secrets@6"}
    crashed = Job(tmp_path, *settings, ranks=1, program=PLANTED, cold=True, **environment)
    assert crashed.wait() == [1]
    assert "Traceback" in crashed.output()
    assert "401 for https://***@host" in crashed.output()
    Job(tmp_path, *settings, ranks=1, **CANARIES).succeeded()
    page = [
        sys.executable,
        "-m",
        "pretrain.dashboard",
        f"run_dir={run_dir}",
        f"export={tmp_path / 'page.html'}",
    ]
    subprocess.run(page, env={**os.environ, **CANARIES}, check=True)

    assert len(losses(run_dir)) == 8
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    of = {str(path.relative_to(tmp_path)).partition(".")[0].split("/")[-1] for path in files}
    assert {"config", "metrics", "attempts", "ledger", "page", "MANIFEST", "attempt-0-rank-0"} <= of
    assert any("wandb" in path.parts for path in files)
    leaks = [
        (path.name, name)
        for path in files
        for name, text in CANARIES.items()
        if text.encode() in path.read_bytes()
    ]
    assert leaks == []


@pytest.mark.parametrize(
    "setting",
    [
        "+cluster.slurm.api_token={canary}",
        "data.index=https://me:{canary}@host/index.json",
        "tracking.project='${{oc.env:HF_TOKEN}}'",
    ],
)
def test_a_secret_is_refused_as_a_setting_and_not_repeated(tmp_path, setting):
    canary = CANARIES["IN_OUR_ERROR"]
    job = Job(
        tmp_path,
        *TINY,
        f"run_dir={tmp_path / 'run'}",
        setting.format(canary=canary),
        ranks=1,
        HF_TOKEN=canary,
    )
    assert job.wait() == [Exit.CONFIG]
    assert "looks like a secret" in job.output()
    assert canary not in job.output()
    assert not (tmp_path / "run").exists()
