import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conf.exits import ConfigError
from pretrain.storage import faults

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def disarmed():
    yield
    faults.configure(None)


def test_points_are_silent_unless_armed():
    faults.configure(None)
    faults.fault_point("anything")


def test_a_named_point_fails_at_the_visit_that_was_asked_for_only():
    faults.configure("here:eio@2")
    faults.fault_point("here")
    faults.fault_point("there")
    with pytest.raises(OSError, match="planted at here"):
        faults.fault_point("here")
    faults.fault_point("here")


def test_a_fault_for_one_rank_spares_the_others():
    faults.configure("here:enospc#1", rank=0)
    faults.fault_point("here")
    faults.configure("here:enospc#1", rank=1)
    with pytest.raises(OSError, match="No space"):
        faults.fault_point("here")


def fired(seed):
    faults.configure(f"seed:{seed}:0.2")
    visits = []
    for visit in range(200):
        try:
            faults.fault_point("here")
        except OSError as error:
            visits.append((visit, error.errno))
    return visits


def test_a_seed_repeats_its_faults(monkeypatch):
    monkeypatch.setattr(faults, "_RANDOM_ACTIONS", ("eio", "enospc"))
    assert fired(1) == fired(1) != fired(2)
    assert 20 < len(fired(1)) < 60


@pytest.mark.parametrize("text", ["here", "here:explode", "seed:x", "here:kill@", ":kill", "seed:1:7"])
def test_a_misspelt_fault_is_refused(text):
    with pytest.raises(ConfigError, match="FAULTS="):
        faults.configure(text)


def test_the_environment_arms_a_program_and_prints_how_to_repeat_it():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pretrain.storage.faults import fault_point; fault_point('here'); print('alive')",
        ],
        cwd=ROOT,
        env={**os.environ, "FAULTS": "here:kill"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""
    assert "FAULTS=here:kill@1" in done.stderr
