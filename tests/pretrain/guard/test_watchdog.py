"""The parent of a process: what it makes of the child's end, its signals and its silence."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from conf.exits import Exit
from pretrain.guard import attempts
from pretrain.guard.heartbeat import Heart, Page, WatchdogConfig
from pretrain.guard.processes import started, state

CHILD = """
import os, signal, sys, time
from pretrain.guard.heartbeat import Heart, Page, WatchdogConfig
from pretrain.guard.watchdog import watched

def body(page):
    page.note(rank=0, run_dir={run_dir!r}, attempt=0, neighbours=[])
    limits = dict.fromkeys(("startup", "data", "step", "evaluate", "save", "report", "leave"), 1.0)
    heart = Heart(page, WatchdogConfig(times_median=1, **{{f"{{k}}_seconds": v for k, v in limits.items()}}))
    print(os.getpid(), flush=True)
    {body}

watched(body)
"""


def watch(tmp_path, body):
    """Start a watched process; return the parent and the child's process id."""
    source = CHILD.format(run_dir=str(tmp_path), body=body)
    parent = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return parent, int(parent.stdout.readline())


def ended(parent, seconds=20):
    """Return the parent's exit code and what was printed to standard error."""
    _, printed = parent.communicate(timeout=seconds)
    return parent.returncode, printed


@pytest.mark.parametrize("code", [0, 3, 75])
def test_the_parent_leaves_with_the_exit_code_of_the_child(tmp_path, code):
    parent, _ = watch(tmp_path, f"sys.exit({code})")
    assert ended(parent)[0] == code
    assert attempts.read(tmp_path)[-1]["exit_code"] == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_parent_ends_by_the_signal_that_ended_the_child(tmp_path, number):
    parent, child = watch(tmp_path, "time.sleep(100)")
    os.kill(child, number)
    assert ended(parent)[0] == -number
    assert attempts.read(tmp_path)[-1]["reason"] == f"ended by {signal.Signals(number).name}"


def test_a_child_that_says_nothing_is_ended_and_its_stacks_are_kept(tmp_path):
    parent, _ = watch(tmp_path, "time.sleep(100)")
    code, printed = ended(parent)
    assert code == Exit.HANG
    assert "rank 0 hangs (rank 0: startup after step 0" in printed
    assert "in body" in printed
    (stacks,) = (tmp_path / "stacks").iterdir()
    assert stacks.read_text().strip() in printed


def test_a_child_that_goes_on_is_left_alone(tmp_path):
    """A thousand steps, each with data and a report, take longer than any limit."""
    steps = (
        "[(heart.enter(p, n), time.sleep(0.001)) for n in range(1000) for p in ('data', 'step', 'report')]"
    )
    parent, _ = watch(tmp_path, steps)
    assert ended(parent, 60) == (0, "")


def test_the_first_signal_is_a_wish_and_a_later_ctrl_c_the_end(tmp_path):
    waits = "[(heart.beat(), time.sleep(0.01)) for _ in range(10**6)]"
    parent, _ = watch(tmp_path, waits)
    parent.send_signal(signal.SIGTERM)
    parent.send_signal(signal.SIGUSR1)  # at once: the same wish, passed on by somebody else
    time.sleep(1.5)
    parent.send_signal(signal.SIGTERM)  # a scheduler's, when its grace is over and its SIGKILL still to come
    time.sleep(0.5)
    assert parent.poll() is None
    parent.send_signal(signal.SIGINT)
    assert ended(parent, 5)[0] == 128 + signal.SIGINT


@pytest.mark.parametrize("aim", ["parent", "child"])
def test_stacks_are_printed_when_asked_for(tmp_path, aim):
    waits = "[(heart.beat(), time.sleep(0.01)) for _ in iter(lambda: page.asked, 10)]"
    parent, child = watch(tmp_path, waits)
    os.kill(child if aim == "child" else parent.pid, signal.SIGUSR2)
    lines = [parent.stderr.readline() for _ in range(3)]
    assert lines[0] == "watchdog: stacks, as asked:\n"
    assert 'File "<string>", line' in lines[2]
    parent.send_signal(signal.SIGUSR1)
    assert ended(parent)[0] == 0


def test_a_wish_reaches_the_child(tmp_path):
    parent, _ = watch(tmp_path, "[(heart.beat(), time.sleep(0.01)) for _ in iter(lambda: page.asked, 10)]")
    parent.send_signal(signal.SIGUSR1)  # number 10
    assert ended(parent)[0] == 0


def test_the_child_ends_with_its_parent(tmp_path):
    parent, child = watch(tmp_path, "[(heart.beat(), time.sleep(0.01)) for _ in range(10**6)]")
    parent.kill()
    ended(parent)
    deadline = time.monotonic() + 5
    while started(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert state(child) in "XZ"


def test_a_crash_is_told_from_a_mistake_and_from_a_stop(tmp_path):
    for code in (1, 2, -11, Exit.HANG):
        assert attempts.is_crash(code)
    for code in (Exit.OK, Exit.CONFIG, Exit.NON_FINITE, Exit.REQUEUE, Exit.REFUSED):
        assert not attempts.is_crash(code)


def test_an_attempt_that_left_no_word_is_said_to_have_ended(tmp_path):
    assert [attempts.begin(tmp_path, host="a"), attempts.begin(tmp_path, host="b")] == [0, 1]
    assert [(line["attempt"], line["event"]) for line in attempts.read(tmp_path)] == [
        (0, "begin"),
        (0, "end"),
        (1, "begin"),
    ]
    assert "left no word" in attempts.read(tmp_path)[1]["reason"]


def test_only_the_third_identical_crash_in_a_row_is_a_loop(tmp_path):
    def crash(step):
        fingerprint = f"step {step}: ValueError"
        looped = attempts.is_loop(tmp_path, fingerprint)
        attempts.end(tmp_path, attempt=0, reason="x", exit_code=1, step=step, fingerprint=fingerprint)
        return looped

    assert [crash(7), crash(7), crash(8), crash(7), crash(7), crash(7)] == [False] * 5 + [True]


def test_a_cut_off_line_does_not_swallow_the_next(tmp_path):
    attempts.begin(tmp_path)
    with (tmp_path / attempts.NAME).open("a") as file:
        file.write('{"attempt": 0, "ev')
    attempts.begin(tmp_path)
    assert [line["event"] for line in attempts.read(tmp_path)] == ["begin", "end", "begin"]


def test_a_limit_grows_with_what_a_phase_takes_as_a_rule():
    page = Page()
    heart = Heart(page, WatchdogConfig(step_seconds=0.001, startup_seconds=0.002, times_median=20))
    for step in range(5):
        heart.enter("step", step)
        time.sleep(0.05)
        heart.enter("report", step)
    heart.enter("step", 5)
    assert page.beat().phase == "step"
    assert page.beat().budget >= 20 * 0.05


def test_a_page_can_be_read_by_another_process():
    page = Page()
    page.note(rank=3, text="…")
    page.ask(15)
    Heart(page).enter("save", 42)
    script = (
        "import json; from pretrain.guard.heartbeat import Page; "
        f"page = Page('/proc/{os.getpid()}/fd/{page.descriptor}'); "
        "print(json.dumps([page.notes(), page.asked, page.beat().phase, page.beat().step, page.status]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [{"rank": 3, "text": "…"}, 15, "save", 42, None]


@pytest.mark.parametrize("wrong", [{"step_seconds": 0.0}, {"save_seconds": -1.0}, {"times_median": 0.5}])
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WatchdogConfig(**wrong)


def test_attempts_are_alike_if_they_had_as_many_ranks_on_the_same_kind_of_device(tmp_path):
    kinds = [(8, "H100"), (4, "H100"), (8, "A100"), (8, None), (8, "H100"), (8, "H100")]
    for ranks, device in kinds:
        attempts.begin(tmp_path, ranks=ranks, **({"device": device} if device else {}))
    assert attempts.alike(tmp_path, 4) == {0, 3}, "one of an older version does not say on what it ran"
    assert attempts.alike(tmp_path, 2) == set()
