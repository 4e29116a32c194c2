import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain.guard.stopping import STOP_FILE, STOP_SIGNALS, StopConfig, StopRequest, Wish, clear, time_limit


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nobody_has_asked_at_first(tmp_path: Path):
    request = StopRequest(tmp_path)
    assert not request.asked()
    assert request.reason == ""


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_a_signal_asks_and_is_named(tmp_path: Path, number: signal.Signals):
    request = StopRequest(tmp_path)
    os.kill(os.getpid(), number)
    assert request.asked()
    assert request.reason == number.name


def test_a_supervisors_wish_outlives_the_start_of_its_own_trainer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A signal may come while the ranks still import; that of a start that was lost means nobody now."""
    monkeypatch.setenv("GPT2_START", "7.1")
    (tmp_path / STOP_FILE).write_text("slurm SIGUSR1 7.1\n")
    assert not clear(tmp_path)
    assert StopRequest(tmp_path).asked()
    for text in ("slurm SIGUSR1 7.0\n", "slurm SIGUSR1 7.10\n", ""):
        (tmp_path / STOP_FILE).write_text(text)
        assert clear(tmp_path)
    monkeypatch.delenv("GPT2_START")
    (tmp_path / STOP_FILE).write_text("slurm SIGUSR1 7.1\n")
    assert clear(tmp_path)


def test_the_file_asks_and_clearing_takes_it_away(tmp_path: Path):
    (tmp_path / STOP_FILE).touch()
    request = StopRequest(tmp_path)
    assert request.asked()
    assert STOP_FILE in request.reason
    assert clear(tmp_path)
    assert not clear(tmp_path)
    assert request.asked(), "a wish is not taken back"
    assert not StopRequest(tmp_path).asked()


def test_the_time_limit_asks_early_enough_for_two_saves_and_the_margin(tmp_path: Path):
    limit = time.monotonic() + 100
    request = StopRequest(tmp_path, time_limit=limit, margin_seconds=30.0)
    assert not request.asked(save_seconds=30.0)
    assert request.asked(save_seconds=40.0)
    assert request.reason == "the time limit"


def test_the_earlier_end_counts():
    now = time.time()
    both = time_limit(StopConfig(after_minutes=10), began_at=now, ends_at=now + 100)
    assert both - time.monotonic() == pytest.approx(100, abs=1)
    minutes = time_limit(StopConfig(after_minutes=1), began_at=now - 20, ends_at=None)
    assert minutes - time.monotonic() == pytest.approx(40, abs=1)
    assert time_limit(StopConfig(), began_at=now, ends_at=None) == math.inf


def test_the_larger_wish_wins():
    assert max(Wish.NOTHING, Wish.STOP, Wish.SAVE) == Wish.STOP
    assert not Wish.NOTHING


_SECOND_SIGNAL = """
import os, signal, sys, time
from pathlib import Path
import pretrain.guard.stopping
import pretrain.guard.watchdog
pretrain.guard.watchdog.SAME_WISH_SECONDS = 0.05
request = pretrain.guard.stopping.StopRequest(Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)  # the same wish: a launcher and a terminal both pass it on
print(request.asked(), flush=True)
time.sleep(0.1)
os.kill(os.getpid(), signal.SIGTERM)  # a scheduler's, before its SIGKILL: the save may still be complete
os.kill(os.getpid(), signal.SIGUSR1)
print("still here", flush=True)
os.kill(os.getpid(), signal.SIGINT)
print("not any more")
"""


def test_a_ctrl_c_after_another_signal_ends_the_process_at_once(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", _SECOND_SIGNAL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout == "True\nstill here\n", done.stderr
    assert done.returncode == 128 + signal.SIGINT


@pytest.mark.parametrize(
    "wrong", [{"after_minutes": 0.0}, {"after_minutes": math.nan}, {"margin_seconds": -1.0}]
)
def test_a_value_out_of_range_is_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=rf"stop\.{next(iter(wrong))}"):
        StopConfig(**wrong)
