"""A run that another job has is left as it is."""

from pathlib import Path

import pytest

from conf.exits import LeaseHeldError
from slurm import record, supervisor


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "SIGNALING"])
def test_a_second_job_of_a_run_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
):
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {state}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    record.begin(run_dir, "7", 0, nodes=["n1"], from_step=0)
    (run_dir / "STOP").write_text("slurm SIGUSR1 7.0\n")  # the first is just being asked to save
    before = {path.name: path.read_bytes() for path in run_dir.iterdir()}
    with pytest.raises(LeaseHeldError, match=r"job 7 \(\w+\) holds this run already; .* scancel 7"):
        supervisor.main([f"run_dir={run_dir}"])
    assert {path.name: path.read_bytes() for path in run_dir.iterdir()} == before
