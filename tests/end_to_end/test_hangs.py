"""A rank that dies or hangs takes all ranks of its node with it, soon, and says where it stood."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from endurance import TINY
from trainer_job import PLANTED, Job, metric_rows

from conf.exits import Exit
from pretrain.guard import attempts

pytestmark = pytest.mark.slow

LIMIT = 8.0  # seconds; a step takes some 0.1, and several where other tests fill the machine
PHASES = ("data", "step", "evaluate", "save")
REPORTED = re.compile(r"silent for ([\d.]+) s \(limit ([\d.]+) s\)")


def settings(shards, run_dir, *more):
    limits = [f"watchdog.{phase}_seconds={LIMIT}" for phase in PHASES]
    run = [f"data.index={shards}", f"run_dir={run_dir}", "checkpoint.every=5"]
    return [*TINY, *run, "watchdog.times_median=1", *limits, *more]


@pytest.mark.parametrize(
    ("plant", "phase", "shown"),
    [
        ("stop@4#1", "step", "cannot show its stacks"),
        ("hang@4#1", "step", "in FOR_EVER|planted.py"),
        ("interpreter@4#0", "step", "in hold_the_interpreter"),
        ("hang-in-data@4#1", "data", "in __next__|in method"),
        ("hang-in-save@5#0", "save", "in _save"),
        ("hang-in-evaluation@4#1", "evaluate", "in loss"),
    ],
)
def test_a_hang_ends_all_ranks_with_the_stacks_of_each(shards, tmp_path, plant, phase, shown):
    run_dir = tmp_path / "run"
    job = Job(run_dir, *settings(shards, run_dir, "validation.every=2"), program=PLANTED, PLANT=plant)
    codes = job.wait()
    assert codes == [Exit.HANG, Exit.HANG], job.output(0)[-2000:] + job.output(1)[-2000:]
    culprit = int(plant[-1])
    last = attempts.read(run_dir)[-1]
    # Two ranks in the same phase of the same step: which of them the other waits for, only the stacks say.
    alone = plant.startswith(("stop", "hang-in-data"))
    who = f"rank {culprit} hangs" if alone else "ranks 0, 1 wait for each other"
    assert (last["exit_code"], last["reason"].partition(" (")[0]) == (Exit.HANG, who)
    assert f"rank {culprit}: {phase} after step" in last["reason"]
    silent, limit = max((float(s) - float(of), float(of)) for s, of in REPORTED.findall(last["reason"]))
    print(f"{plant}: noticed {silent:.1f} s after the limit of {limit:.1f} s")
    assert silent < 2
    for rank in (0, 1):
        (stacks,) = (run_dir / "stacks").glob(f"attempt-0000-rank-{rank:05d}.txt")
        assert stacks.read_text().strip() in job.output(rank)
    assert re.search(shown, job.output(culprit))
    assert re.search("in (train_step|validate|_save)", job.output(1 - culprit))  # it waited there


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_thousand_steps_with_saves_and_validations_raise_no_alarm(shards, tmp_path):
    run_dir = tmp_path / "run"
    Job(run_dir, *settings(shards, run_dir, "steps=1000", "validation.every=50")).succeeded()
    assert not (run_dir / "stacks").exists()
    assert [line["event"] for line in attempts.read(run_dir)] == ["begin", "end"]


def test_a_killed_rank_ends_the_others_within_five_seconds(shards, tmp_path):
    run_dir = tmp_path / "run"
    job = Job(run_dir, *settings(shards, run_dir), program=PLANTED, PLANT="kill@4#1")
    assert job.processes[1].wait(200) == -signal.SIGKILL
    died_at = time.monotonic()
    assert job.processes[0].wait(5) == 1
    print(f"rank 0 left {time.monotonic() - died_at:.1f} s after rank 1 was killed")
    last = attempts.read(run_dir)[-1]
    assert (last["event"], last["rank"], last["reason"]) == ("end", 1, "ended by SIGKILL")


def test_a_rank_that_waits_for_a_dead_neighbour_is_ended(shards, tmp_path):
    """Rank 0 is kept from noticing by itself: it sleeps when rank 1 dies, as one does in NCCL."""
    run_dir = tmp_path / "run"
    job = Job(run_dir, *settings(shards, run_dir), program=PLANTED, PLANT="kill@4#1,hang@4#0")
    assert job.processes[1].wait(200) == -signal.SIGKILL
    assert job.processes[0].wait(5) == 1
    assert attempts.read(run_dir)[-1]["reason"] == "ended by SIGKILL"


def test_ranks_end_with_their_launcher(shards, tmp_path):
    run_dir = tmp_path / "run"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pretrain.train"]
    command = [sys.executable, *launch, *settings(shards, run_dir, "steps=100000")]
    with (tmp_path / "log").open("w") as log:
        launcher = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        while not metric_rows(run_dir) and launcher.poll() is None:
            time.sleep(0.05)
        everyone = psutil.Process(launcher.pid).children(recursive=True)
        launcher.kill()
        assert launcher.wait(5) == -signal.SIGKILL
    assert len(everyone) >= 4  # two ranks and their watchdogs
    _gone, alive = psutil.wait_procs(everyone, timeout=5)
    assert alive == []


def test_the_third_identical_crash_is_refused_for_ever(shards, tmp_path):
    run_dir = tmp_path / "run"
    codes = []
    for _ in range(3):
        job = Job(run_dir, *settings(shards, run_dir), ranks=1, program=PLANTED, PLANT="crash@7")
        codes += job.wait()
    assert codes == [1, 1, Exit.REFUSED]
    assert "step 7: RuntimeError in pretrain/loop.py _step" in job.output()
    ends = [line for line in attempts.read(run_dir) if line["event"] == "end"]
    assert [(line["exit_code"], line["loop"]) for line in ends] == [(1, False), (1, False), (18, True)]
    assert {json.dumps(line["fingerprint"]) for line in ends} == {
        '"step 7: RuntimeError in pretrain/loop.py _step"'
    }
