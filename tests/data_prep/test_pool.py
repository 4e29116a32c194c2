import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conf.exits import ConfigError, DatasetError, Exit
from data_prep.pool import WorkerDiedError, each, worker_count

_ORPHANS = """
import os, sys, time
from data_prep.pool import each
def work(item):
    print(os.getpid(), flush=True)
    time.sleep(600)
if __name__ == "__main__":
    list(each(work, range(2), 2))
"""


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def fail_at_three(number: int) -> int:
    if number == 3:
        raise DatasetError("unit 3 is bad")
    return number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_done_once(workers: int):
    done = dict(each(square, range(20), workers))
    assert {item: result for item, (result, _) in done.items()} == {n: n * n for n in range(20)}
    assert (os.getpid() in {process for _, process in done.values()}) == (workers == 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_work_reaches_the_caller_as_it_is(workers: int):
    with pytest.raises(DatasetError, match="unit 3 is bad"):
        list(each(fail_at_three, range(20), workers))


def test_a_killed_worker_asks_for_the_command_to_be_run_again():
    with pytest.raises(WorkerDiedError, match="run the same command again") as caught:
        list(each(die_at_three, range(20), 2))
    assert caught.value.code == Exit.REQUEUE


def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path: Path):
    script = tmp_path / "orphans.py"
    script.write_text(_ORPHANS)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert all(parent.stdout.readline() for _ in range(2))
        parent.kill()
        assert parent.stdout.read() == ""  # ends when the last worker, which holds the pipe, is gone
        assert parent.wait() == -signal.SIGKILL


def test_workers_are_never_more_than_pay():
    assert worker_count("auto", 1) == worker_count(1, 100) == 1
    assert worker_count("auto", 10**6) >= 1
    assert worker_count(8, 3) == 3
    for wrong in (0, -1, "many"):
        with pytest.raises(ConfigError, match=f"workers={wrong}"):
            worker_count(wrong, 5)
