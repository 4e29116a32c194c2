import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conf.exits import Exit, LeaseHeldError, RefusedError
from pretrain.storage import lease

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import sys, types
from pathlib import Path
sys.path.insert(0, ".")
sys.modules["conf"] = types.ModuleType("conf")  # the exit codes alone: fifty start at once
sys.modules["conf"].__path__ = ["conf"]
from conf.exits import UserError
from pretrain.storage import lease
try:
    held = lease.acquire(Path(sys.argv[1]), heartbeat_seconds=None)
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(error.code)
print(held.fence, flush=True)
sys.stdin.read()
"""


def start(run_dir, **environment):
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", HOLD, run_dir],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fence_of(process):
    return int(process.stdout.readline())


def take(run_dir, **options):
    return lease.acquire(run_dir, heartbeat_seconds=None, **options)


def test_a_second_trainer_is_told_within_a_second_who_holds_the_directory(tmp_path):
    first = start(tmp_path, SLURM_JOB_ID="4711")
    assert fence_of(first) == 1
    began = time.monotonic()
    with pytest.raises(LeaseHeldError) as caught:
        take(tmp_path)
    assert time.monotonic() - began < 1
    for fact in (str(first.pid), socket.gethostname(), "4711", str(tmp_path)):
        assert fact in str(caught.value)
    assert "\n" not in str(caught.value)
    first.communicate(timeout=20)
    assert first.returncode == 0


def test_a_killed_holder_is_succeeded_at_once(tmp_path):
    first = start(tmp_path)
    assert fence_of(first) == 1
    first.kill()
    assert first.wait(20) == -signal.SIGKILL
    began = time.monotonic()
    second = take(tmp_path)
    assert time.monotonic() - began < 0.5
    assert second.fence == 2
    second.release()
    first.communicate()


def test_a_killed_holder_is_succeeded_even_if_a_child_it_forked_lives_on(tmp_path):
    script = "import os, signal\n" + HOLD.replace(
        "sys.stdin.read()",
        "child = os.fork()\nif child == 0: sys.stdin.read(); os._exit(0)\n"
        "print(child, flush=True); signal.pause()",
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-I", "-S", "-c", script, tmp_path], cwd=ROOT, **pipes)
    assert fence_of(first) == 1
    child = int(first.stdout.readline())
    first.kill()
    assert first.wait(20) == -signal.SIGKILL
    os.kill(child, 0)  # it does live
    take(tmp_path).release()
    first.communicate()  # closes the pipe it waits for


def test_a_released_directory_can_be_taken_again_under_a_larger_fence(tmp_path):
    fences = []
    for _ in range(3):
        held = take(tmp_path)
        assert held.still_mine()
        fences.append(held.fence)
        held.release()
        held.release()
        assert not held.still_mine()
    assert fences == [1, 2, 3]


def test_fences_grow_past_those_of_the_checkpoints_when_the_lease_file_is_lost(tmp_path):
    assert take(tmp_path, above=41).fence == 42


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"fence": 1}', b"\0" * 100, b"x" * 100_000])
def test_a_garbled_lease_file_stops_nobody(tmp_path, content):
    take(tmp_path).release()
    (tmp_path / ".lease.json").write_bytes(content)
    held = take(tmp_path, above=5)
    assert held.fence == 6
    (tmp_path / ".lease.json").write_bytes(content)
    assert held.still_mine()
    held.release()


def on_another_host(run_dir, **facts):
    """Leave a lease as a process on another host would, its lock unseen by this one."""
    held = take(run_dir, owner={"host": "node7", **facts})
    os.close(held._lock)
    held._lock = os.open("/dev/null", os.O_RDONLY)
    return held


def test_a_holder_on_another_host_is_believed_while_its_heart_beats(tmp_path):
    on_another_host(tmp_path, job="99")
    with pytest.raises(LeaseHeldError, match=r"on node7, job 99.*silent for 60 s"):
        take(tmp_path)


def test_a_silent_holder_on_another_host_is_replaced_and_can_no_longer_commit(tmp_path):
    old = on_another_host(tmp_path)
    long_ago = time.time() - 2 * lease.STALE_SECONDS
    os.utime(tmp_path / ".lease.json", (long_ago, long_ago))
    new = take(tmp_path)
    assert new.fence > old.fence
    assert new.still_mine()
    assert not old.still_mine()
    with pytest.raises(LeaseHeldError, match=f"fence {new.fence}.*has {old.fence}"):
        old.check()
    old.release()  # and its end does not take the directory from the new one
    assert new.still_mine()


def test_a_requeued_job_takes_over_from_its_own_earlier_life_on_another_host(tmp_path):
    on_another_host(tmp_path, job="99")
    assert take(tmp_path, owner={"job": "99"}).fence == 2


def test_a_requeued_job_takes_over_though_its_cut_off_node_still_holds_the_lock(tmp_path):
    old = take(tmp_path, owner={"host": "cut-off", "job": "99"})
    with pytest.raises(LeaseHeldError, match="job 99"):
        take(tmp_path, owner={"job": "100"})
    new = take(tmp_path, owner={"job": "99"})
    assert new.still_mine()
    with pytest.raises(LeaseHeldError, match=f"fence {new.fence}"):
        old.check()
    old.release()
    assert new.still_mine()


def test_without_kernel_locks_the_lease_file_names_the_living_holder(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    held = take(tmp_path)
    with pytest.raises(LeaseHeldError, match=f"pid {os.getpid()} "):
        take(tmp_path)
    held.release()
    killed = start(tmp_path)
    assert fence_of(killed) == 2
    killed.kill()
    assert killed.wait(20) == -signal.SIGKILL
    killed.communicate()
    assert take(tmp_path).fence == 3


def test_the_heart_of_a_replaced_holder_does_not_keep_its_successor_alive(tmp_path, monkeypatch):
    old = on_another_host(tmp_path, job="99")
    take(tmp_path, owner={"job": "99"})
    os.utime(tmp_path / ".lease.json", (0, 0))
    beats = iter([False, False, True])
    monkeypatch.setattr(old._ended, "wait", lambda seconds: next(beats))
    old._beat(0.0)
    assert (tmp_path / ".lease.json").stat().st_mtime == 0


def test_the_heartbeat_keeps_the_lease_fresh(tmp_path):
    held = lease.acquire(tmp_path, heartbeat_seconds=0.01)
    os.utime(tmp_path / ".lease.json", (0, 0))
    deadline = time.monotonic() + 20
    while (tmp_path / ".lease.json").stat().st_mtime == 0:
        assert time.monotonic() < deadline
    held.release()


def test_a_run_directory_that_everybody_can_write_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(RefusedError, match="chmod o-w"):
        take(tmp_path)


@pytest.mark.parametrize("name", [".lease.lock", ".lease.json"])
def test_a_planted_link_is_not_followed(tmp_path, name):
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    run_dir = tmp_path / "run"
    run_dir.mkdir(0o700)
    (run_dir / name).symlink_to(outside)
    if name == ".lease.lock":
        with pytest.raises(RefusedError, match="symbolic"):
            take(run_dir)
    else:
        take(run_dir).release()  # replaced, not written through
    assert outside.read_text() == "untouched"


def test_of_simultaneous_starts_exactly_one_wins(tmp_path):
    started = [start(tmp_path) for _ in range(50)]
    outcomes = []
    for process in started:
        line = process.stdout.readline()
        outcomes.append(line)
    winners = [process for process, line in zip(started, outcomes, strict=True) if line]
    assert len(winners) == 1
    for process in started:
        _, complaint = process.communicate(timeout=20)
        expected = Exit.OK if process is winners[0] else Exit.LEASE_HELD
        assert process.returncode == expected, complaint
        if process is not winners[0]:
            assert f"pid {winners[0].pid} " in complaint
