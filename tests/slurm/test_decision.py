"""What becomes of a job is a function of how its ranks ended; no cluster is needed to try it."""

import json
import signal
import time
from dataclasses import replace

import pytest

from conf.exits import Exit
from pretrain.guard import attempts
from slurm import launch, record, scheduler
from slurm.asking import Answer
from slurm.decision import Facts, crashes_at, decide, is_of_the_node
from slurm.record import Outcome
from slurm.stop_file import StopFile

ENDED = Facts(exit_code=1, is_done=False, asked_by_user=False, job_state="RUNNING", crashes=1, most_crashes=3)
CRASH = Outcome("7", 0, 1, "a crash", "requeue", from_step=5, to_step=5)


@pytest.mark.parametrize(
    ("change", "verdict", "exit_code"),
    [
        ({"is_done": True, "exit_code": 0}, "done", 0),
        ({"is_done": True, "exit_code": 143}, "done", 0),  # killed while it was closing
        ({"exit_code": 75}, "requeue", 0),
        ({"exit_code": 75, "asked_by_user": True}, "stopped", 0),
        ({"exit_code": 75, "job_state": "COMPLETING"}, "left", 75),  # cancelled: it must not come back
        ({"exit_code": 16, "job_state": "RUNNING elsewhere, in start 1"}, "left", 16),
        ({"exit_code": 0}, "requeue", 0),  # srun says 0 for some jobs that were ended
        ({"exit_code": 0, "crashes": 3}, "failed", 1),
        ({"exit_code": 0, "job_state": ""}, "left", 0),
        ({"exit_code": 1}, "requeue", 0),
        ({"exit_code": 1, "crashes": 3}, "failed", 1),
        ({"exit_code": Exit.HANG}, "requeue", 0),
        ({"exit_code": Exit.NON_FINITE}, "requeue", 0),
        ({"exit_code": 139}, "requeue", 0),
        *[({"exit_code": code}, "failed", code) for code in (10, 11, 12, 13, 16, 17, 18)],
    ],
)
def test_how_the_ranks_ended_decides(change, verdict, exit_code):
    decision = decide(replace(ENDED, **change))
    assert (decision.verdict, decision.exit_code) == (verdict, exit_code)
    assert decision.reason


@pytest.mark.parametrize(
    ("history", "count"),
    [
        ([], 1),
        ([CRASH, CRASH], 3),
        ([replace(CRASH, from_step=0), CRASH], 3),  # it saved before the same crash, the first time
        ([CRASH, replace(CRASH, from_step=0, to_step=4)], 1),
        ([CRASH, replace(CRASH, exit_code=75)], 1),
        ([CRASH, replace(CRASH, decision="lost", exit_code=None)], 2),
        ([replace(CRASH, to_step=4), replace(CRASH, decision="lost", exit_code=None)], 1),
        ([CRASH, replace(CRASH, decision="left", to_step=9)], 1),
        ([CRASH, replace(CRASH, exit_code=143)], 2),  # preempted before its ranks could listen
    ],
)
def test_only_crashes_in_a_row_at_the_same_checkpoint_count(history, count):
    assert crashes_at(5, history, 1) == count
    assert crashes_at(6, history, 1) == 1
    assert crashes_at(5, history, 75) == 0
    assert crashes_at(5, history, 143) == 0


@pytest.mark.parametrize(("shown", "state"), [("SIGNALING", "RUNNING"), ("PENDING", "PENDING"), ("", "")])
def test_a_job_that_is_sent_a_signal_still_runs(shown, state, monkeypatch):
    monkeypatch.setattr(scheduler, "insist", lambda *command: Answer(0, shown, ""))
    assert scheduler.job_state("7") == state


def test_outcomes_are_read_back_as_they_were_written(tmp_path):
    (tmp_path / attempts.NAME).write_text('{"attempt": 0, "event": "begin"}\n{"cut o')
    record.begin(tmp_path, "7", 0, nodes=["n1"], from_step=0)
    assert [line["nodes"] for line in record.unended(tmp_path)] == [["n1"]]
    outcome = replace(CRASH, faulty_nodes=("n1",), excluded_nodes=("n2", "n3"))
    record.end(tmp_path, outcome)
    assert record.outcomes(tmp_path) == [outcome]
    assert record.unended(tmp_path) == []
    assert [
        json.loads(line)["event"] for line in (tmp_path / attempts.NAME).read_text().splitlines()[2:]
    ] == [
        "launch",
        "outcome",
    ]


def test_a_start_is_replaced_by_a_later_one_only(tmp_path):
    assert not record.is_replaced(tmp_path, "7", 0)
    record.begin(tmp_path, "7", 0)
    assert not record.is_replaced(tmp_path, "7", 0)
    assert not record.is_replaced(tmp_path, "7", 1)  # which is about to begin
    record.begin(tmp_path, "7", 1)
    assert record.is_replaced(tmp_path, "7", 0)
    assert not record.is_replaced(tmp_path, "7", 1)
    record.begin(tmp_path, "8", 0)  # submitted a second time: no reason for a healthy one to end
    assert not record.is_replaced(tmp_path, "7", 1)
    assert record.is_replaced(tmp_path, "7", 0)


def test_a_job_has_the_run_until_its_last_word_is_that_it_has_ended_for_good(tmp_path):
    assert record.unsettled(tmp_path) == []
    record.begin(tmp_path, "7", 0)
    record.begin(tmp_path, "8_1", 0)
    assert record.unsettled(tmp_path) == ["7", "8_1"]
    for decision, settled in (("requeue", False), ("left", False), ("lost", False), ("done", True)):
        record.end(tmp_path, replace(CRASH, decision=decision))
        assert record.unsettled(tmp_path) == (["8_1"] if settled else ["7", "8_1"])
    for decision in ("failed", "stopped"):
        record.end(tmp_path, replace(CRASH, job="8_1", decision=decision))
        assert record.unsettled(tmp_path) == []
        record.begin(tmp_path, "8_1", 1)
        assert record.unsettled(tmp_path) == ["8_1"]


def test_the_signal_to_a_replaced_start_stops_nobody(tmp_path):
    said: list[str] = []
    replaced = [True]
    stop = StopFile(tmp_path, said.append, "7.1", lambda: replaced[0])
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
    stop.listen()
    try:
        signal.raise_signal(signal.SIGTERM)
        assert not (tmp_path / "STOP").exists()
        replaced[0] = False
        signal.raise_signal(signal.SIGTERM)
        assert (tmp_path / "STOP").read_text() == "slurm SIGTERM 7.1\n"
        assert len(said) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_start_takes_away_the_stop_file_of_no_other_start_when_it_ends(tmp_path):
    path = tmp_path / "STOP"
    stop = StopFile(tmp_path, print, "8.0")
    for text, own, leftover in (("slurm SIGUSR1 8.0\n", 0, 0), ("slurm SIGUSR1 7.0\n", 1, 0), ("", 1, 1)):
        path.write_text(text)
        stop.remove_own()
        assert path.exists() == own
        stop.remove_leftover()
        assert path.exists() == leftover


def test_the_cause_is_the_trainers_own_word(tmp_path):
    assert record.cause(tmp_path, 0.0) == ""
    attempts.begin(tmp_path)
    assert record.cause(tmp_path, 0.0) == ""  # all its processes were killed at once
    attempts.leave_word(tmp_path, 0, 3, attempts.raised(RuntimeError("a planted crash")))
    assert record.cause(tmp_path, 0.0) == "RuntimeError: a planted crash"  # rank 0 could not tell
    attempts.end(tmp_path, attempt=0, reason="hung in data", exit_code=15, step=3)
    assert record.cause(tmp_path, 0.0) == "hung in data"
    assert record.cause(tmp_path, time.time() + 1) == ""  # of an earlier start


@pytest.mark.parametrize(
    ("exit_code", "cause", "blamed"),
    [
        (137, "", True),  # killed, often for want of memory
        (135, "", True),
        (Exit.HANG, "hung in step", True),
        (1, "DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3384, remote process exited", True),
        (1, "AcceleratorError: CUDA error: uncorrectable ECC error encountered", True),
        (1, "RuntimeError: No CUDA-capable device is detected", True),
        (1, "AcceleratorError: CUDA error: device-side assert triggered", False),  # an index out of range
        (1, "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", False),
        (1, "KeyError: 'lr'", False),
        (41, "", False),
        (0, "", False),
        (143, "ended by SIGTERM", False),
        (Exit.NON_FINITE, "the gradient was not finite", False),
    ],
)
def test_a_node_is_at_fault_only_for_what_hardware_does(exit_code, cause, blamed):
    assert is_of_the_node(exit_code, cause) == blamed


def test_a_node_at_fault_twice_is_bad():
    faults = [replace(CRASH, faulty_nodes=nodes) for nodes in (("n1",), ("n2", "n3"), ("n3",))]
    assert record.bad_nodes(faults) == ["n3"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("srun: error: n1: task 0: Exited with exit code 75", ("n1", 0, 75)),
        ("srun: error: gpu-7: tasks 4-5,7: Killed", ("gpu-7", 4, 137)),
        ("srun: error: n2: task 2: Segmentation fault (core dumped)", ("n2", 2, 139)),
        ("srun: error: Node failure on n2", None),
        ("srun: launch/slurm: _step_signal: Terminating StepId=6.0", None),
    ],
)
def test_srun_tells_who_ended_how(line, told):
    assert launch.exit_told(line) == told


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("30", 1800),
        ("2:30", 150),
        ("1:00:00", 3600),
        ("1-0", 86400),
        ("1-12:30", 131400),
        ("2-00:00:10", 172810),
        ("infinite", float("inf")),
    ],
)
def test_a_time_is_read_as_slurm_writes_it(limit, seconds):
    assert scheduler.seconds(limit) == seconds


@pytest.mark.parametrize("limit", ["", "tomorrow", "1h", "1:2:3:4", "-1"])
def test_what_is_no_time_is_refused(limit):
    with pytest.raises(ValueError, match="is not a time"):
        scheduler.seconds(limit)
