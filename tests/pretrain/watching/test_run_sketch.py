"""A sketch of a long record: few rows, all of them true, until the whole record is read."""

import json
import random
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from pretrain.watching import run_page, run_sketch
from pretrain.watching.metrics_log import FILE_NAME
from pretrain.watching.page_server import LiveRuns
from pretrain.watching.run_log import RunLog, read_run
from pretrain.watching.run_sketch import sketch
from pretrain.watching.run_summary import settings, summary

SKETCH_LINES = 16


@pytest.fixture(autouse=True)
def _short_sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_sketch, "_PARTS", SKETCH_LINES)


def write_run(run_dir: Path, *, seed: int = 0, attempts: int = 1, rows: int = 300) -> Path:
    """Write attempts of about as many rows, each from where the one before it stood some steps earlier.

    Every row has an `x` of its own, so that a row can be told from the one that replaces it.
    """
    chance, own, lines, step = random.Random(seed), count(), [], 0
    for attempt in range(attempts):
        stamp = {"attempt": attempt, "time": float(attempt)}
        # The settings are longer than many rows, as they are in truth.
        lines.append({**stamp, "event": "started", "settings": {"of": attempt, "text": "s" * 5000}})
        lines += [{**stamp, "event": "resumed", "step": step}] * chance.randrange(3)
        for _ in range(chance.randrange(rows)):
            step += 1
            lines.append(
                {**stamp, "step": step, "tokens": step, "x": next(own), "y": "0" * chance.randrange(99)}
            )
            if chance.random() < 0.05:
                lines.append({**stamp, "event": "sample", "step": step, "text": "t" * chance.randrange(2000)})
            if chance.random() < 0.02:
                lines.append({**stamp, "alert": "loss spike", "text": "high"})
        step = max(0, step - chance.randrange(rows // 2))
    run_dir.mkdir(exist_ok=True)
    (run_dir / FILE_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run_dir


def rows_of(run: RunLog) -> dict[int, tuple[float, float]]:
    return dict(zip(run.steps, zip(run.column("x"), run.column("attempt"), strict=True), strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_every_row_of_a_sketch_is_one_that_counts(seed: int, tmp_path: Path):
    write_run(tmp_path, seed=seed, attempts=1 + seed % 7)
    whole, sketched = read_run(tmp_path), sketch(tmp_path)
    assert rows_of(sketched).items() <= rows_of(whole).items()
    assert settings(sketched) == settings(whole)
    assert sketched.columns.get("attempt", [])[-1:] == whole.columns.get("attempt", [])[-1:]


def test_a_sketch_spans_the_record_in_few_rows(tmp_path: Path):
    (tmp_path / FILE_NAME).write_text(
        "".join(f'{{"attempt": 0, "time": 1, "step": {step}}}\n' for step in range(10_000))
    )
    steps = list(sketch(tmp_path).steps)
    assert SKETCH_LINES <= len(steps) <= 3 * SKETCH_LINES
    assert (steps[0], steps[-1]) == (0, 9999)
    assert max(later - earlier for earlier, later in pairwise(steps)) < 1.1 * 10_000 / SKETCH_LINES


@pytest.mark.parametrize(
    "hurt",
    [
        lambda text: text[:-7],  # a last line that is still being written
        lambda text: text.replace("\n", "\nnot a record\n"),
        lambda text: text.replace("\n", '\n{"attempt": 0, "time": 1.0, "step": "x"}\n'),
        lambda text: text.replace("\n", '\n{"attempt": 0, "time": 1.0, "step": Infinity}\n'),
        lambda text: text.replace("\n", "\n[1]\n\n"),
        lambda text: "",
        lambda text: text.splitlines()[0],
    ],
)
def test_a_sketch_passes_over_what_is_no_line_of_a_record(hurt: Callable[[str], str], tmp_path: Path):
    whole = rows_of(read_run(write_run(tmp_path, attempts=3)))
    record = tmp_path / FILE_NAME
    record.write_text(hurt(record.read_text()))
    assert rows_of(sketch(tmp_path)).keys() <= whole.keys() | {0}


def test_a_record_that_is_cut_or_gone_has_a_sketch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_run(tmp_path, attempts=3)
    whole, size = read_run(tmp_path), (tmp_path / FILE_NAME).stat().st_size
    monkeypatch.setattr(run_sketch.os, "fstat", lambda _: SimpleNamespace(st_size=3 * size))
    assert rows_of(sketch(tmp_path)).items() <= rows_of(whole).items()
    assert list(sketch(tmp_path / "gone").steps) == []


def test_a_sketch_says_nothing_that_needs_the_whole_record(tmp_path: Path):
    found = summary(sketch(write_run(tmp_path, attempts=3)), now=0.0)
    assert (found.state, found.step, found.attempts) == ("reading", None, 0)
    assert (found.figures, found.seconds) == ({}, {})


def test_a_page_of_sketches_becomes_the_page_of_the_whole_records(tmp_path: Path):
    paths = [write_run(tmp_path / name, seed=seed, attempts=3) for seed, name in enumerate("abc")]
    live, being_read = LiveRuns(lambda: paths), {path: Future() for path in paths}
    live._under_way, live._sketches = dict(being_read), {path: sketch(path) for path in paths}
    tag, first = live.data("")
    assert [run["summary"]["state"] for run in json.loads(str(first))["runs"]] == ["reading"] * 3
    assert live.data(tag) == (tag, None)
    for path in reversed(paths):
        being_read[path].set_result((read_run(path), None))
        with (path / FILE_NAME).open("a") as file:
            file.write('{"attempt": 9, "time": 9.0, "step": 9999, "x": 1.0}\n')  # after it was read
        tag, news = live.data(tag)
        assert news is not None
    at_once = json.loads(str(LiveRuns(lambda: paths).data("")[1]))
    assert [run | {"summary": None} for run in json.loads(str(news))["runs"]] == [
        run | {"summary": None} for run in at_once["runs"]
    ]


def test_a_record_whose_reader_was_killed_is_read_here(tmp_path: Path):
    path, being_read = write_run(tmp_path / "a"), Future()
    live = LiveRuns(lambda: [path])
    live._under_way, live._sketches = {path: being_read}, {path: sketch(path)}
    being_read.set_exception(BrokenProcessPool())
    with pytest.raises(MemoryError, match="was killed"):
        live.page()
    assert json.loads(str(live.data("")[1]))["runs"][0]["summary"]["state"] != "reading"


def test_curves_are_made_only_for_a_run_with_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [write_run(tmp_path / name) for name in "ab"]
    made, make = [], run_page._curves
    monkeypatch.setattr(
        run_page, "_curves", lambda run, points: made.append(run.run_dir) or make(run, points)
    )
    live = LiveRuns(lambda: paths)
    live.page()
    assert made == paths
    with (paths[1] / FILE_NAME).open("a") as file:
        file.write('{"attempt": 0, "time": 9.0, "step": 9999, "x": 7.5}\n')
    assert "7.5" in str(live.data("")[1])
    assert made == [*paths, paths[1]]
