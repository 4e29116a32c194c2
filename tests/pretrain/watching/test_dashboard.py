"""The dashboard's command, its page's data, and its server."""

import gzip
import http.client
import json
import math
import random
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run, metrics_at

from conf.exits import ConfigError, DatasetError
from pretrain.dashboard import main
from pretrain.watching.metrics_log import MetricsLog
from pretrain.watching.page_server import PORT, LiveRuns, server
from pretrain.watching.panels import METRICS
from pretrain.watching.run_directories import run_directories
from pretrain.watching.run_log import read_run
from pretrain.watching.run_page import data_text, page

FILES = Path(__file__).parents[3] / "pretrain" / "watching" / "page"
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&{{PLOTLY}}"


def data_of(*run_dirs: Path):
    return json.loads(data_text([read_run(path) for path in run_dirs], live=False))


def without_plotly(text: str) -> str:
    """Return the page's text without the plotting library, which mentions many addresses it never asks."""
    longest = max(re.findall(r"<script>(.*?)</script>", text, re.S), key=len)
    return text.replace(longest, "")


# The page


def test_the_page_carries_every_row_and_names_every_panel(tmp_path: Path):
    data = data_of(make_run(tmp_path / "run", crash_at=450))
    (run,) = data["runs"]
    assert run["axes"]["step"] == list(range(10, 1001, 10))
    assert len(run["curves"]["train/loss"]["y"]) == 100
    assert run["curves"]["val/loss"]["at"] == list(range(9, 100, 10))
    assert set(metrics_at(1, random.Random(0), 1e-3)) <= set(run["curves"])
    assert [panel["metric"] for section in data["sections"] for panel in section["panels"]] == list(METRICS)
    assert [(attempt["number"], attempt["step"]) for attempt in run["attempts"]] == [(0, 10), (1, 410)]
    assert run["axes"]["hours"] == sorted(run["axes"]["hours"])


def test_a_long_run_is_sent_as_few_buckets_that_hide_no_spike(tmp_path: Path):
    log = MetricsLog(tmp_path, attempt=0, say=print)
    for step in range(1, 20_001):
        log.write({"step": step, "tokens": step, "x": 100.0 if step == 12_345 else step % 7})
    log.close()
    (run,) = data_of(tmp_path)["runs"]
    curve = run["curves"]["x"]
    assert len(curve["y"]) == len(run["axes"]["step"]) == 1000
    assert max(curve["high"]) == 100
    assert min(curve["low"]) == 0
    assert np.mean(curve["y"]) == pytest.approx((3 * 20_000 + 100) / 20_000, rel=1e-3)
    assert run["axes"]["step"][-1] == 20_000


def test_gaps_and_non_finite_values_are_valid_json(tmp_path: Path):
    log = MetricsLog(tmp_path, attempt=0, say=print)
    for step in range(1, 6):
        log.write({"step": step, "tokens": step, "x": [1.0, math.nan, math.inf, 2.0, 3.0][step - 1]})
    log.write({"event": "note", "value": math.nan})
    log.close()
    text = data_text([read_run(tmp_path)], live=True)
    assert json.loads(text, parse_constant=pytest.fail)["runs"][0]["curves"]["x"]["y"] == [
        1.0,
        None,
        None,
        2.0,
        3.0,
    ]


def test_a_run_without_rows_has_a_page(tmp_path: Path):
    (tmp_path / "metrics.jsonl").touch()
    (run,) = data_of(tmp_path)["runs"]
    assert (run["summary"]["state"], run["axes"]["step"], run["curves"]) == ("starting", [], {})


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path):
    runs = [make_run(tmp_path / parent / "run", last=10) for parent in ("a", "b")]
    assert [run["name"] for run in data_of(*runs)["runs"]] == ["a/run", "b/run"]


def test_no_text_of_a_run_can_become_markup(tmp_path: Path):
    run_dir = make_run(tmp_path / "run", last=20, settings={"note": HOSTILE, HOSTILE: 1})
    log = MetricsLog(run_dir, attempt=0, say=print)
    log.write({"step": 30, "tokens": 1, HOSTILE: 1.0})
    log.write({"alert": HOSTILE, "text": HOSTILE, "level": HOSTILE})
    log.close()
    text = page([read_run(run_dir)], live=False)
    assert "<img" not in without_plotly(text)
    embedded = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.S)
    assert embedded
    assert json.loads(embedded[1])["runs"][0]["alerts"][0]["alert"] == HOSTILE


def test_the_scripts_write_text_never_markup():
    for path in FILES.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(", path.read_text()
        ), path


def test_the_page_asks_nothing_from_outside(tmp_path: Path):
    text = page([read_run(make_run(tmp_path, last=20))], live=False)
    assert not re.search(r"https?://|//cdn|@import|url\(", without_plotly(text))
    assert "default-src 'none'" in text
    assert "connect-src 'none'" in text


# The command


def test_export_writes_one_file_and_names_it_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_run(tmp_path / "run", last=50)
    target = tmp_path / "pages" / "run.html"
    assert main([f"run_dir={tmp_path / 'run'}", f"export={target}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(target)
    assert target.read_text().startswith("<!doctype html>")
    assert [path.name for path in target.parent.iterdir()] == ["run.html"]


def test_a_directory_of_runs_or_a_list_makes_one_page(tmp_path: Path):
    for name in ("a", "b", "deeper/c"):
        make_run(tmp_path / "runs" / name, last=20)
    target = tmp_path / "page.html"
    main([f"runs={tmp_path / 'runs'}", f"export={target}"])
    assert target.read_text().count('"summary":') == 3
    main([f"runs=[{tmp_path / 'runs/a'},{tmp_path / 'runs/b'}]", f"export={target}"])
    assert target.read_text().count('"summary":') == 2


@pytest.mark.parametrize(
    ("overrides", "error", "text"),
    [
        ([], ConfigError, "give either run_dir=RUN or runs=DIR"),
        (["run_dir={dir}", "runs={dir}"], ConfigError, "give either"),
        (["run_dir={dir}/none", "export=x.html"], ConfigError, "run directory {dir}/none does not exist"),
        (["run_dir={dir}", "export=x.html"], DatasetError, "nothing has been logged yet"),
        (["runs={dir}", "export=x.html"], DatasetError, "nothing has been logged yet"),
        (["runs={dir}", "port=99999"], ConfigError, "port 99999"),
        (["run_dri={dir}"], ConfigError, "did you mean 'run_dir'"),
    ],
)
def test_a_mistake_is_named(overrides: list[str], error: type[Exception], text: str, tmp_path: Path):
    with pytest.raises(error, match=re.escape(text.format(dir=tmp_path))):
        main([override.format(dir=tmp_path) for override in overrides])


def test_a_mistake_is_one_line_and_its_exit_code(tmp_path: Path):
    command = [sys.executable, "-m", "pretrain.dashboard", f"run_dir={tmp_path / 'none'}", "export=x.html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 10
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


# The server


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    make_run(tmp_path / "a", last=100, finished=False)
    with server(LiveRuns(lambda: run_directories(tmp_path)), 0) as web:
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield web.server_port, tmp_path
        web.shutdown()


def get(port: int, path: str, **headers: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return answer.status, body.decode(), answer.headers.get("ETag", "")


def test_the_server_sends_the_page_and_data_only_when_there_are_news(served: tuple[int, Path]):
    port, runs = served
    assert get(port, "/")[0] == 200
    status, text, tag = get(port, "/data.json", **{"Accept-Encoding": "gzip"})
    assert (status, [run["name"] for run in json.loads(text)["runs"]]) == (200, ["a"])
    assert get(port, "/data.json", **{"If-None-Match": tag})[:2] == (304, "")
    make_run(runs / "b", last=20)
    status, text, _ = get(port, "/data.json", **{"If-None-Match": tag})
    assert (status, [run["name"] for run in json.loads(text)["runs"]]) == (200, ["a", "b"])


def test_the_server_shows_the_other_runs_when_one_is_unreadable(
    served: tuple[int, Path], capsys: pytest.CaptureFixture[str]
):
    port, runs = served
    make_run(runs / "b", last=20)
    (runs / "b" / "metrics.jsonl").write_text("not a record\n")
    for _ in range(2):
        status, text, _ = get(port, "/data.json")
        assert (status, len(json.loads(text)["runs"])) == (200, 2)
    assert capsys.readouterr().err.count("not one of this format") == 1


def test_the_server_answers_no_foreign_name_and_no_other_path(served: tuple[int, Path]):
    port, _ = served
    assert get(port, "/data.json", Host="evil.example.com")[0] == 403
    assert get(port, "/../../etc/passwd")[0] == 404


def test_a_server_that_is_given_no_port_takes_the_usual_one_or_one_nearby():
    with server(LiveRuns(list), None) as first, server(LiveRuns(list), None) as second:
        ports = [first.server_port, second.server_port]
    assert ports == sorted(set(ports))
    assert all(PORT <= each < PORT + 20 for each in ports)


def test_a_taken_port_is_named(served: tuple[int, Path]):
    with pytest.raises(ConfigError, match=r"choose another with port="):
        server(LiveRuns(list), served[0])
