"""Every cause is told once, everywhere a person may look, and telling costs training nothing."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat import SECRET, Chat

from conf.exits import Exit
from pretrain.guard.heartbeat import Beat
from pretrain.health import Health, HealthConfig
from pretrain.watching import alerts, stall, webhook
from pretrain.watching.last_words import last_words
from pretrain.watching.stall import stalls_told
from pretrain.watching.tracker import Tracker
from pretrain.watching.tracking import TrackingConfig, open_tracker

CLEAN = {
    "train/loss": 3.0,
    "perf/tokens_per_s": 1e6,
    "perf/data_wait_frac": 0.01,
    "disk/free_gib": 900.0,
    "disk/room_checkpoints": 80.0,
}


def tracker_in(run_dir: Path, say: Callable[[str], None] = lambda _: None) -> Tracker:
    config = TrackingConfig(wandb="disabled")
    return open_tracker(config, run_dir, settings={}, attempt=0, primary=True, say=say)


def reports(tracker: Tracker, first: int, count: int, **changed: float) -> int:
    for step in range(first, first + count):
        noise = {"train/loss": 3.0 + 0.01 * (step % 7)}
        tracker.log(step, step, {**CLEAN, **noise, **changed})
    return first + count


def skipping(tracker: Tracker) -> None:
    health = Health(HealthConfig(), None, Path())  # pyright: ignore[reportArgumentType]
    for step in range(100, 110):
        if news := health.heed(True, step):
            tracker.alert("steps are skipped", news)


def stalling(tracker: Tracker) -> None:
    said: list[str] = []

    def alert(title: str, text: str) -> None:
        tracker.alert(title, text)
        said.append(title)

    old = Beat(at=time.monotonic() - 400, budget=600, step=7, phase="data")
    with stalls_told(lambda: old, alert):
        while not said:
            time.sleep(0.01)
        time.sleep(0.05)  # more looks at the same stall


# cause → how it comes about once a run has gone well for a while
CAUSES: dict[str, Callable[[Tracker], Any]] = {
    "non-finite loss": lambda tracker: reports(tracker, 100, 3, **{"train/loss": math.nan}),
    "loss spike": lambda tracker: reports(tracker, 100, 3, **{"train/loss": 9.0}),
    "steps are skipped": skipping,
    "stall": stalling,
    "slow": lambda tracker: reports(tracker, 100, 9, **{"perf/tokens_per_s": 0.69e6}),
    "waiting for data": lambda tracker: reports(tracker, 100, 9, **{"perf/data_wait_frac": 0.11}),
    "a checkpoint was not saved": lambda tracker: [
        tracker.alert("a checkpoint was not saved", f"at step {step}: no space", "ERROR") for step in range(3)
    ],
    "low disk": lambda tracker: reports(tracker, 100, 9, **{"disk/room_checkpoints": 1.9}),
    "requeue": lambda tracker: tracker.finish(Exit.REQUEUE, "stopped by SIGTERM, after step 7"),
    "finished": lambda tracker: tracker.finish(Exit.OK, "done, after step 9"),
    "failed": lambda tracker: tracker.finish(Exit.NON_FINITE, "the loss stayed NaN, after step 9"),
}


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch):
    with Chat() as service:
        for name, value in service.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(stall, "_LOOK_EVERY_SECONDS", 0.01)
        yield service


def told_in_file(run_dir: Path) -> list[str]:
    path = run_dir / "alerts.jsonl"
    return [json.loads(line)["alert"] for line in path.read_text().splitlines()] if path.exists() else []


def recorded(run_dir: Path) -> list[str]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["alert"] for line in lines if "alert" in line]


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_is_one_message_and_is_in_the_file_the_record_and_the_log(
    cause: str, chat: Chat, tmp_path: Path
):
    said: list[str] = []
    tracker = tracker_in(tmp_path, said.append)
    reports(tracker, 1, 99)
    assert said == [], "a hundred good reports are no news"
    CAUSES[cause](tracker)
    tracker.finish()
    assert chat.titles() == [cause]
    assert set(told_in_file(tmp_path)) == set(recorded(tmp_path)) == {cause}
    assert len([line for line in said if f": {cause}: " in line]) == len(told_in_file(tmp_path))


def test_a_thousand_clean_steps_are_no_news(chat: Chat, tmp_path: Path):
    tracker = tracker_in(tmp_path)
    reports(tracker, 1, 1000)
    tracker.finish()
    assert (chat.asked, told_in_file(tmp_path)) == (0, [])


def test_a_cause_that_comes_and_goes_is_one_message_an_hour(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tracker = tracker_in(tmp_path)
    step = 1
    for _ in range(4):
        step = reports(tracker, step, 40)
        step = reports(tracker, step, 5, **{"perf/data_wait_frac": 0.5})
    monkeypatch.setattr(alerts, "SAME_CAUSE_SECONDS", 0.0)
    reports(tracker, reports(tracker, step, 40), 5, **{"perf/data_wait_frac": 0.5})
    tracker.finish()
    assert told_in_file(tmp_path) == ["waiting for data"] * 5
    assert chat.titles() == ["waiting for data"] * 2


def test_a_message_names_the_run_and_cannot_hold_markup(chat: Chat, tmp_path: Path):
    tracker = tracker_in(tmp_path / "my-run")
    tracker.alert("slow", "a\nb <!channel> & password=canary", "WARN")
    tracker.finish()
    assert chat.messages == ["[WARN] my-run: slow: a b &lt;!channel&gt; &amp; password=***"]


def test_the_webhooks_address_is_written_nowhere(chat: Chat, tmp_path: Path):
    said: list[str] = []
    chat.status = 404
    tracker = tracker_in(tmp_path, said.append)
    tracker.alert("upload failed", f"at {chat.url}", "ERROR")
    tracker.finish()
    assert [line for line in said if "webhook answered 404" in line] == said[-1:]
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert [path for path, data in written.items() if SECRET.encode() in data] == []
    assert not [line for line in said if SECRET in line]


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (500, 3), (429, 3)])
def test_a_refusing_webhook_is_said_once_and_asked_again_only_if_that_may_help(
    status: int, asked: int, chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(webhook, "_PAUSE_SECONDS", 0.0)
    said: list[str] = []
    chat.status = status
    tracker = tracker_in(tmp_path, said.append)
    for number in range(3):
        tracker.alert(f"cause {number}", "text")
    tracker.finish()
    assert chat.asked == 3 * asked
    assert [line for line in said if "webhook" in line] == [
        f"the webhook answered {status}; alerts.jsonl has every alert"
    ]
    assert told_in_file(tmp_path) == ["cause 0", "cause 1", "cause 2"]


def test_a_hanging_webhook_costs_no_time_while_training_and_a_bounded_one_at_the_end(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(alerts, "_LONGEST_WAIT_SECONDS", 0.3)
    chat.delay_seconds = 60.0
    tracker = tracker_in(tmp_path)
    began = time.monotonic()
    for number in range(300):  # more than the queue holds
        tracker.alert(f"cause {number}", "text")
    told = time.monotonic()
    tracker.finish()
    assert told - began < 2.0
    assert time.monotonic() - told < 2.0
    assert len(told_in_file(tmp_path)) == 300


@pytest.mark.parametrize("address", ["http://example.com/canary", "file:///etc/canary", "canary"])
def test_an_address_that_is_not_https_is_refused_without_repeating_it(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PRETRAIN_WEBHOOK_URL", address)
    said: list[str] = []
    tracker = tracker_in(tmp_path, said.append)
    tracker.alert("slow", "very")
    tracker.finish()
    assert said[0] == "the webhook is off: PRETRAIN_WEBHOOK_URL must be an https:// address"
    assert "canary" not in "".join(said)


def test_the_watchdog_tells_how_a_killed_run_ended(
    chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tracker = tracker_in(tmp_path)
    reports(tracker, 1, 3)
    last_words(tmp_path, 0, 137, "ended by SIGKILL, after step 3")
    assert chat.titles() == told_in_file(tmp_path) == recorded(tmp_path) == ["failed"]
    assert "ERROR: failed: ended by SIGKILL, after step 3 [exit 137]" in capsys.readouterr().err
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("stopped", 137)


def test_a_rank_that_moves_or_may_take_its_time_does_not_stall():
    now = 1000.0
    assert stall.stall(Beat(now - 299, 600, 7, "step"), now) == ""
    assert stall.stall(Beat(now - 10**6, 2.0**62 / 1e9, 7, "step"), now) == ""
    assert "no sign of progress for 301 s in 'step' after step 7" in stall.stall(
        Beat(now - 301, 600, 7, "step"), now
    )
