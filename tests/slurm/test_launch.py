"""What srun is called with, and what it tells; no cluster is needed to try it."""

import os
import shlex
import sys
import time
from pathlib import Path

import pytest

from conf import compose
from slurm import launch
from slurm.site import site

BATCH = {"SLURM_JOB_NUM_NODES": "2", "GPT2_PYTHON": "/env/bin/python"}


def words(cluster: str, *overrides: str) -> list[str]:
    raw = compose("train", [f"cluster={cluster}", "run_dir=x", *overrides])
    return launch.command(site(raw.cluster).train, BATCH, Path("/a run/logs/7.0"), ["run_dir='/a run'"])


def test_one_srun_starts_one_rank_for_each_gpu():
    command = words("h100x8_infiniband")
    assert command[:4] == ["srun", "--nodes=2", "--ntasks=16", "--ntasks-per-node=8"]
    assert {"--kill-on-bad-exit=1", "--wait=120", "--cpu-bind=cores"} <= set(command)
    assert command[-4:] == ["/env/bin/python", "-m", "pretrain.train", "run_dir='/a run'"]
    assert shlex.split(shlex.join(command)) == command


@pytest.mark.parametrize(
    ("cluster", "container"),
    [
        ("h100x8_pyxis", ["--container-image=/scratch/images/gpt2.sqsh"]),
        ("a100x4_apptainer", ["apptainer", "exec", "--nv", "--bind", "/scratch", "/scratch/images/gpt2.sif"]),
    ],
)
def test_in_a_container_the_ranks_use_its_python(cluster, container):
    command = words(cluster)
    begin = command.index(container[0])
    assert command[begin : begin + len(container)] == container
    assert command[-4:-1] == ["python3", "-m", "pretrain.train"]
    assert "/env/bin/python" not in command


# As srun does: its child waits for its end, and then would have the controller kill the step.
SRUN = """
import os, sys, time
reading, writing = os.pipe()
if os.fork():
    time.sleep(60)
os.close(writing)
os.read(reading, 1)
open(sys.argv[1], "w")
"""


def test_the_child_of_a_replaced_srun_does_nothing_for_its_step(tmp_path):
    began = time.monotonic()
    harm = tmp_path / "harm"
    command = [sys.executable, "-c", SRUN, str(harm)]
    ended = launch.run(command, os.environ, tmp_path / "logs", lambda: time.monotonic() > began + 1)
    assert ended.exit_code == 128 + 9
    time.sleep(0.5)
    assert not harm.exists()


def test_an_srun_that_was_replaced_is_killed_at_once(tmp_path):
    began = time.monotonic()
    ended = launch.run(["sleep", "60"], os.environ, tmp_path / "logs", lambda: time.monotonic() > began + 0.5)
    assert ended.exit_code == 128 + 9
    assert time.monotonic() - began < 30
