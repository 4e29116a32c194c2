"""TensorBoard's own files hold every row, and what goes wrong with them stays with them."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain.watching.tracking import Tracker, TrackingConfig, open_tracker

tensorboardx = pytest.importorskip("tensorboardX")


def tracker_in(run_dir: Path, attempt: int = 0, said: list[str] | None = None) -> Tracker:
    config = TrackingConfig(wandb="disabled", tensorboard=True)
    say = (said if said is not None else []).append
    return open_tracker(config, run_dir, settings={}, attempt=attempt, primary=True, say=say)


def events(run_dir: Path) -> Iterator[Any]:
    """Yield the events of all files, in the order of writing: TFRecords of length, CRC, data, CRC."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted((run_dir / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (size,) = struct.unpack("<Q", data[place : place + 8])
            yield Event.FromString(data[place + 12 : place + 12 + size])
            place += size + 16


def test_every_row_is_a_scalar_at_its_step_and_a_resume_hides_what_it_does_again(tmp_path: Path):
    for attempt, (first, last) in enumerate([(1, 5), (4, 8)]):
        tracker = tracker_in(tmp_path, attempt)
        for step in range(first, last + 1):
            tracker.log(step, step * 10, {"train/loss": 3 + 1 / step})
        tracker.sample(last, "The sea", " answered.")
        tracker.alert("slow", "very")
        tracker.finish()
    found = list(events(tmp_path))
    loss = [
        (event.step, round(value.simple_value, 5))
        for event in found
        for value in event.summary.value
        if value.tag == "train/loss"
    ]
    assert loss == [(step, round(3 + 1 / step, 5)) for step in (1, 2, 3, 4, 5, 4, 5, 6, 7, 8)]
    restarts = [event.step for event in found if event.HasField("session_log")]
    assert restarts == [4], "TensorBoard drops the first attempt's steps from here on"
    tags = {value.tag for event in found for value in event.summary.value}
    assert {"tokens", "samples/text_summary", "alerts/text_summary"} <= tags


def test_a_missing_package_is_said_once_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    said: list[str] = []
    tracker = tracker_in(tmp_path, said=said)
    for step in range(3):
        tracker.log(step, step, {"train/loss": 3.0})
    tracker.finish()
    assert said == ["TensorBoard is off: pip install 'gpt2-pretrain[tensorboard]'"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


def test_a_directory_that_cannot_be_written_is_said_once_and_costs_nothing(tmp_path: Path):
    (tmp_path / "tensorboard").write_text("in the way")
    said: list[str] = []
    tracker = tracker_in(tmp_path, said=said)
    for step in range(3):
        tracker.log(step, step, {"train/loss": 3.0})
    tracker.finish()
    assert len(said) == 1
    assert "metrics.jsonl has everything" in said[0]
