"""A run that is asked to stop saves once, at a step on which all ranks agree, and leaves with 75."""

import random
import signal
import time
from functools import partial

import psutil
import pytest
from endurance import TINY
from trainer_job import PLANTED, Job, metric_rows

from conf.exits import Exit
from pretrain.guard import attempts
from pretrain.storage import commit
from pretrain.stream.ledger import account, read

pytestmark = pytest.mark.slow

INSTANTS = [
    pytest.param(10, id="10"),
    pytest.param(100, id="100", marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
]
STOPPING = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


def settings(shards, run_dir, *more):
    small = ["checkpoint.every=0", "validation.every=7", "steps=1000000"]
    return [*TINY, f"data.index={shards}", f"run_dir={run_dir}", *small, *more]


def saved(run_dir):
    return commit.checkpoints(run_dir / "checkpoints")


def has_reported(run_dir, attempt):
    return any(row["attempt"] == attempt for row in metric_rows(run_dir))


def listens(job):
    """Say whether all parents have forked: until then a signal ends what has not begun."""
    return all(psutil.Process(process.pid).children() for process in job.processes)


def until(condition, job):
    while not condition():
        assert job.running(), job.output()[-3000:]
        time.sleep(0.01)


@pytest.mark.parametrize("instants", INSTANTS)
def test_signals_at_random_instants_lead_to_one_state_that_all_agree_on(shards, tmp_path, instants):
    seed = random.randrange(2**32)
    print(f"seed {seed}, {instants} instants")
    generator = random.Random(seed)
    run_dir = tmp_path / "run"
    for instant in range(instants):
        before = saved(run_dir)
        job = Job(run_dir, *settings(shards, run_dir))
        to_all, number = generator.random() < 0.5, generator.choice(STOPPING)
        in_startup = generator.random() < 0.25
        until(partial(listens, job) if in_startup else partial(has_reported, run_dir, instant), job)
        time.sleep(generator.random())  # anywhere in a step, a report or an evaluation
        aim = job.processes if to_all else [generator.choice(job.processes)]
        for process in aim:
            process.send_signal(number)
        assert job.wait() == [Exit.REQUEUE, Exit.REQUEUE], job.output()[-3000:]
        assert len(saved(run_dir)) <= 2  # the retention's number
        (new,) = [path for path in saved(run_dir) if path not in before]
        end = attempts.read(run_dir)[-1]
        assert (end["event"], end["attempt"], end["exit_code"]) == ("end", instant, Exit.REQUEUE)
        assert new.name == f"step-{end['step']:08d}"
        assert commit.verify(new).step == end["step"]
    proof = account(read(run_dir))
    assert (proof.lost, proof.duplicated, proof.retaken_steps) == (0, 0, 0)
    assert proof.steps == end["step"]


def test_a_ctrl_c_after_a_signal_ends_the_run_at_once(shards, tmp_path):
    run_dir = tmp_path / "run"
    # It hangs, or it would have heeded the first in time.
    job = Job(run_dir, *settings(shards, run_dir), ranks=1, program=PLANTED, PLANT="hang@0")
    until(partial(listens, job), job)
    job.processes[0].send_signal(signal.SIGTERM)
    time.sleep(1.2)  # sooner, it would be the same wish, passed on by a launcher and a scheduler
    job.processes[0].send_signal(signal.SIGINT)
    assert job.processes[0].wait(2) == 128 + signal.SIGINT
    assert saved(run_dir) == []


def test_a_stop_file_stops_once_and_is_removed_by_the_next_attempt(shards, tmp_path):
    run_dir = tmp_path / "run"
    job = Job(run_dir, *settings(shards, run_dir))
    until(lambda: metric_rows(run_dir), job)
    (run_dir / "STOP").touch()
    assert job.wait() == [Exit.REQUEUE, Exit.REQUEUE]
    assert attempts.read(run_dir)[-1]["reason"] == "stopped by the file STOP"
    # The end of the job's time counts too, less what is to be kept free.
    ends_at = str(int(time.time()) + 45)
    again = Job(
        run_dir, *settings(shards, run_dir, "stop.margin_seconds=15"), ranks=1, SLURM_JOB_END_TIME=ends_at
    )
    assert again.wait() == [Exit.REQUEUE]
    assert time.time() < float(ends_at)
    assert "removed the file STOP" in again.output()
    assert not (run_dir / "STOP").exists()
    assert attempts.read(run_dir)[-1]["reason"] == "stopped by the time limit"
