"""metrics.jsonl loses nothing, and tells a run's story once however often it was interrupted."""

import json
import math
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conf.exits import ConfigError, CorruptError, DatasetError
from pretrain.watching.metrics_log import MetricsLog, last_values
from pretrain.watching.run_log import RunLog, read_run


def log_in(run_dir: Path, attempt: int = 0) -> MetricsLog:
    return MetricsLog(run_dir, attempt=attempt, say=lambda text: None)


def write_rows(run_dir: Path, steps: range, attempt: int = 0, **metrics: float) -> None:
    log = log_in(run_dir, attempt)
    for step in steps:
        log.write({"step": step, "tokens": step * 10, "train/loss": step + attempt / 10, **metrics})
    log.close()


def test_every_row_written_is_read_back(tmp_path: Path):
    write_rows(tmp_path, range(1, 6))
    run = read_run(tmp_path)
    assert list(run.steps) == [1, 2, 3, 4, 5]
    assert list(run.column("tokens")) == [10, 20, 30, 40, 50]
    assert list(run.column("train/loss")) == [1, 2, 3, 4, 5]
    assert run.first_time <= run.last_time


def test_two_rows_of_one_step_are_one(tmp_path: Path):
    log = log_in(tmp_path)
    log.write({"step": 1, "tokens": 10, "train/loss": 3.0})
    log.write({"step": 1, "tokens": 10, "val/loss": 2.0})
    log.write({"step": 2, "tokens": 20, "train/loss": 2.5})
    log.close()
    rows = [
        {k: v for k, v in row.items() if k not in {"time", "attempt"}} for row in read_run(tmp_path).rows()
    ]
    assert rows == [
        {"step": 1, "tokens": 10, "train/loss": 3.0, "val/loss": 2.0},
        {"step": 2, "tokens": 20, "train/loss": 2.5},
    ]


def test_a_later_attempt_replaces_all_rows_from_its_first_step_on(tmp_path: Path):
    write_rows(tmp_path, range(10, 101, 10))
    write_rows(tmp_path, range(55, 81, 5), attempt=1)  # other steps than before: none of the old may stay
    write_rows(tmp_path, range(80, 91, 10), attempt=2)
    run = read_run(tmp_path)
    assert list(run.steps) == [10, 20, 30, 40, 50, 55, 60, 65, 70, 75, 80, 90]
    assert list(run.column("attempt")) == [0] * 5 + [1] * 5 + [2] * 2


@pytest.mark.parametrize("resumed_at", [1, 3, 4])
def test_a_later_attempt_forgets_columns_it_does_not_log_again(resumed_at: int, tmp_path: Path):
    write_rows(tmp_path, range(1, 5), **{"val/loss": 1.0})
    write_rows(tmp_path, range(resumed_at, 6), attempt=1)
    values = list(read_run(tmp_path).column("val/loss"))
    assert values[: resumed_at - 1] == [1.0] * (resumed_at - 1)
    assert [math.isnan(value) for value in values[resumed_at - 1 :]] == [True] * (6 - resumed_at)


def test_not_a_number_is_valid_json_and_a_gap_for_the_reader(tmp_path: Path):
    log = log_in(tmp_path)
    for step, value in enumerate([1.0, math.nan, math.inf, -math.inf], 1):
        log.write({"step": step, "tokens": 0, "x": value})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    strict = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["x"] for row in strict] == [1.0, "nan", "inf", "-inf"]
    assert [math.isnan(value) for value in read_run(tmp_path).column("x")] == [False, True, True, True]


def test_an_update_reads_only_what_is_new_and_waits_for_an_unfinished_line(tmp_path: Path):
    write_rows(tmp_path, range(1, 3))
    run = RunLog(tmp_path)
    assert run.update()
    assert not run.update()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"attempt": 0, "time": 1, "step": 3, "to')
        file.flush()
        assert not run.update()
        file.write('kens": 30}\n')
    assert run.update()
    assert list(run.steps) == [1, 2, 3]


@pytest.mark.parametrize(
    ("torn", "kept"),
    [
        ('{"attempt": 0, "time": 1, "step": 3, "tok', [1, 2, 9]),
        ('{"attempt": 0, "time": 1, "step": 3}', [1, 2, 3, 9]),
    ],
)
def test_a_torn_last_line_does_not_spoil_the_next_attempt(torn: str, kept: list[int], tmp_path: Path):
    write_rows(tmp_path, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    write_rows(tmp_path, range(9, 10), attempt=1)
    assert list(read_run(tmp_path).steps) == kept


@pytest.mark.parametrize(
    "line", ["not json", "[1, 2]", '{"step": 3}', '{"time": 1, "step": "x", "attempt": 0}']
)
def test_a_bad_line_in_the_middle_is_an_error_that_shows_it(line: str, tmp_path: Path):
    write_rows(tmp_path, range(1, 3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    write_rows(tmp_path, range(3, 4))
    run = RunLog(tmp_path)
    for _ in range(2):
        with pytest.raises(CorruptError, match="is not one of this format"):
            run.update()
        assert list(run.steps) == [1, 2]


def test_sigkill_loses_no_row(tmp_path: Path):
    program = f"""
import os, signal; from pathlib import Path; from pretrain.watching.metrics_log import MetricsLog
log = MetricsLog(Path({str(tmp_path)!r}), attempt=0, say=print)
for step in range(50): log.write({{"step": step, "tokens": 0}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert len(read_run(tmp_path).steps) == 50


def test_a_full_disk_costs_rows_but_neither_the_run_nor_the_file(tmp_path: Path):
    said: list[str] = []
    log = MetricsLog(tmp_path, attempt=0, say=said.append)
    old_limit, old_handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    try:
        log.write({"step": 1, "tokens": 0})
        size = (tmp_path / "metrics.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, old_limit[1]))
        for step in range(2, 5):
            log.write({"step": step, "tokens": 0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    log.write({"step": 5, "tokens": 0})
    log.close()
    assert list(read_run(tmp_path).steps) == [1, 5]
    assert len(said) == 2
    assert "training goes on" in said[0]
    assert "3 lines" in said[1]


def test_a_run_without_a_directory_or_without_metrics_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="nothing yet"):
        read_run(tmp_path)


def test_the_newest_values_of_a_metric_are_found_from_the_end(tmp_path: Path):
    assert last_values(tmp_path, "train/loss", 3) == []
    write_rows(tmp_path, range(1, 2000))
    log_in(tmp_path).write({"event": "note"})
    assert last_values(tmp_path, "train/loss", 3) == [1997, 1998, 1999]
    assert last_values(tmp_path, "absent", 3) == []


def test_rows_of_any_shape_and_order_are_what_a_naive_reader_finds(tmp_path: Path):
    chance = random.Random(0)
    names = ["a", "b", "c"]
    for number in range(30):
        run_dir = tmp_path / str(number)
        expected: dict[int, dict[str, float]] = {}
        log, step, attempt, fresh = log_in(run_dir), 0, 0, False
        for _ in range(40):
            if chance.random() < 0.1:
                log.close()
                attempt += 1
                log, step = log_in(run_dir, attempt), max(0, step - chance.randrange(6))
                fresh = True
            step += chance.random() < 0.9
            chosen = names if chance.random() < 0.7 else chance.sample(names, chance.randint(0, 3))
            row = {name: chance.choice([1.0, 2, math.nan]) for name in chosen}
            log.write({"step": step, "tokens": step, **row})
            if fresh:
                expected = {known: row for known, row in expected.items() if known < step}
            fresh = False
            expected.setdefault(step, {}).update(row)
        log.close()
        run = read_run(run_dir)
        assert list(run.steps) == list(expected)
        for name in names:
            found = list(run.column(name))
            assert found == pytest.approx([row.get(name, math.nan) for row in expected.values()], nan_ok=True)
