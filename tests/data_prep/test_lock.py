import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conf.exits import LeaseHeldError
from data_prep.lock import locked

_HOLDER = """
import sys
from pathlib import Path
from data_prep.lock import locked
with locked(Path(sys.argv[1]), "unit 3"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_holds_it_and_a_dead_holder_lets_go(tmp_path: Path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(LeaseHeldError, match=f"unit 3 .*process {holder.pid} on {os.uname().nodename}"):
            locked(path, "unit 3").__enter__()
        holder.send_signal(signal.SIGKILL)
        assert holder.wait() == -signal.SIGKILL
    with locked(path, "unit 3"):
        assert path.exists()
    assert not path.exists()


def test_a_lock_is_not_taken_through_a_symbolic_link(tmp_path: Path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"):
        locked(tmp_path / "lock", "unit 3").__enter__()
    assert (tmp_path / "other").read_text() == "precious"


def test_a_holder_that_has_not_yet_written_its_name_is_waited_for(tmp_path: Path):
    path = tmp_path / "unit.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def write() -> None:
            file.write(json.dumps({"host": "n7", "process": 123}).ljust(200))
            file.flush()

        threading.Timer(0.3, write).start()
        with pytest.raises(LeaseHeldError, match=r"worked on by process 123 on n7"), locked(path, "unit 3"):
            pass


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "812"}, r" \(job 812\)"),
        ({"SLURM_JOB_ID": "815", "SLURM_ARRAY_JOB_ID": "812", "SLURM_ARRAY_TASK_ID": "3"}, r" \(job 812_3\)"),
    ],
)
def test_the_job_of_the_holder_is_told(
    variables: dict[str, str], job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with (
        locked(tmp_path / "lock", "unit 3"),
        pytest.raises(LeaseHeldError, match=f"process {os.getpid()} on [^ ]+{job};"),
        locked(tmp_path / "lock", "unit 3"),
    ):
        pass
