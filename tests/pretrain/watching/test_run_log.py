"""Records read in stretches, and by several processes, tell what they tell line by line."""

import json
import math
import random
import shutil
import time
from pathlib import Path

import pytest

from conf.exits import CorruptError, DatasetError
from pretrain.watching import run_log
from pretrain.watching.metrics_log import FILE_NAME
from pretrain.watching.page_server import LiveRuns
from pretrain.watching.run_log import RunLog, read_run, updated


def made_lines(seed: int, count: int = 400) -> list[str]:
    """Return lines in which anything may follow anything: attempts, evaluations, texts, repeated steps."""
    chance = random.Random(seed)
    step, attempt, lines = 0, 0, []
    names = ["a", "b", "c"]
    for moment in range(count):
        line = {"attempt": attempt, "time": float(moment)}
        turn = chance.random()
        if turn < 0.04:
            line |= {"event": "checkpoint", "step": step}
        elif turn < 0.06:
            line |= {"alert": "spike", "text": "\udcff"}  # a file name that is not UTF-8
        else:
            if turn < 0.08:
                attempt, step = attempt + 1, max(0, step - chance.randrange(30))
                line["attempt"] = attempt
            elif turn < 0.14:
                names = chance.sample(["a", "b", "c", "d", "text"], chance.randrange(1, 5))
            step += chance.choice([0, 1, 1, 1, 1, 5])
            line |= {"step": step, "tokens": step * 10, **{name: chance.random() for name in names}}
            if "text" in names:
                line["text"] = "words"
            if turn > 0.95:
                line["a"] = chance.choice(["nan", "inf", None, True])
        lines.append(json.dumps(line) + "\n")
    return lines


def three_runs(folder: Path) -> list[Path]:
    """Write the records of the runs 0, 1 and 2; return their directories."""
    paths = [folder / str(seed) for seed in range(3)]
    for seed, path in enumerate(paths):
        path.mkdir()
        (path / FILE_NAME).write_text("".join(made_lines(seed)))
    return paths


def told(run: RunLog) -> tuple[object, ...]:
    columns = {name: [str(value) for value in run.column(name)] for name in run.columns}
    return list(run.steps), columns, run.events, run.alerts, run.attempt, run.last_time, run.bytes_read


@pytest.mark.parametrize("seed", range(20))
def test_rows_read_in_stretches_are_those_read_line_by_line(seed: int, tmp_path: Path):
    lines, line_by_line = made_lines(seed), RunLog(tmp_path)
    with (tmp_path / FILE_NAME).open("w") as file:
        for line in lines:
            file.write(line)
            file.flush()
            assert line_by_line.update()
    assert told(read_run(tmp_path)) == told(line_by_line)
    assert line_by_line.bytes_read == (tmp_path / FILE_NAME).stat().st_size
    assert len(line_by_line.steps) > 100


@pytest.mark.parametrize("step", ["[]", '"x"', "Infinity", "1e400", str(2**70), "null"])
def test_a_bad_line_within_a_stretch_keeps_the_rows_before_it(step: str, tmp_path: Path):
    rows = [json.dumps({"attempt": 0, "time": 1.0, "step": step}) + "\n" for step in range(1, 9)]
    (tmp_path / FILE_NAME).write_text(
        "".join([*rows[:5], f'{{"attempt": 0, "time": 1, "step": {step}}}\n', *rows[5:]])
    )
    run = RunLog(tmp_path)
    with pytest.raises(CorruptError, match="is not one of this format"):
        run.update()
    assert list(run.steps) == [1, 2, 3, 4, 5]
    assert run.bytes_read == len("".join(rows[:5]))


def test_several_processes_read_what_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    three_runs(tmp_path)
    (tmp_path / "1" / FILE_NAME).write_text("not json\n")
    paths = [tmp_path / name for name in ("0", "1", "2", "gone")]
    alone = updated([RunLog(path) for path in paths])
    several_processes(monkeypatch)
    given = [RunLog(path) for path in paths]
    together = updated(given)
    assert not any(run is its_origin for (run, _), its_origin in zip(together, given, strict=True))
    assert [str(told(run)) for run, _ in together] == [str(told(run)) for run, _ in alone]
    assert [str(error) for _, error in together] == [str(error) for _, error in alone]
    assert [type(error) for _, error in together] == [type(None), CorruptError, type(None), DatasetError]
    assert not math.isnan(together[0][0].first_time)


def test_runs_that_are_read_ahead_appear_as_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = three_runs(tmp_path)
    several_processes(monkeypatch)
    live = LiveRuns(lambda: paths)
    live.read_ahead()
    deadline = time.monotonic() + 60
    while len(found := live.updated()) < len(paths):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [str(told(run)) for run in found] == [str(told(read_run(path))) for path in paths]
    with (paths[1] / FILE_NAME).open("a") as file:
        file.write('{"attempt": 9, "time": 1.0, "step": 10000}\n')
    assert live.updated()[1].steps[-1] == 10000


def test_one_run_is_read_ahead_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (path,) = three_runs(tmp_path)[:1]
    several_processes(monkeypatch)
    live = LiveRuns(lambda: [path])
    live.read_ahead()
    assert list(live._under_way) == list(live._sketches) == [path]  # the page need not wait for it
    live._under_way[path].result(timeout=60)
    assert str(told(live.updated()[0])) == str(told(read_run(path)))


def test_a_run_that_vanishes_while_it_is_read_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    paths = three_runs(tmp_path)
    several_processes(monkeypatch)
    live = LiveRuns(lambda: paths)
    live.read_ahead()
    shutil.rmtree(paths.pop())
    for read in live._under_way.values():
        read.exception(timeout=60)
    data = json.loads(str(live.data("")[1]))
    assert ([run["name"] for run in data["runs"]], data["reading"]) == (["0", "1"], 0)


def several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let short records be read as long ones are."""
    monkeypatch.setattr(run_log, "_BYTES_FOR_PROCESSES", 0)
    monkeypatch.setattr(run_log.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(run_log.threading, "active_count", lambda: 1)  # the test runner may have others
