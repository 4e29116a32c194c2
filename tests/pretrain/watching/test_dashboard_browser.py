"""The page in a real browser: it draws, it links its diagrams, it complains of nothing, it asks nobody."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from chromium import Browser, executable
from made_runs import make_run

from pretrain.dashboard import exported
from pretrain.watching.metrics_log import MetricsLog
from pretrain.watching.page_server import LiveRuns, server
from pretrain.watching.run_directories import run_directories
from pretrain.watching.run_log import read_run
from pretrain.watching.run_sketch import sketch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(executable() is None, reason="no Chromium here: apt-get install chromium"),
]
DRAWN = "document.querySelectorAll('.panel .main-svg').length >= 6"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


def text_of(browser: Browser, selector: str) -> str:
    return browser.value(f"document.querySelector({selector!r}).innerText")


def box_of(browser: Browser, number: int) -> tuple[float, float, float, float]:
    place = f"document.querySelectorAll('.plot')[{number}].getBoundingClientRect()"
    return tuple(browser.value(f"(() => {{ const r = {place}; return [r.x, r.y, r.width, r.height]; }})()"))


def test_an_exported_page_of_three_runs_draws_and_asks_nobody(browser: Browser, tmp_path: Path):
    runs = [make_run(tmp_path / name, seed=seed, crash_at=450) for seed, name in enumerate("abc")]
    page = exported(runs, tmp_path / "page.html")
    seconds = browser.open(page.as_uri())
    browser.wait_for(DRAWN)
    assert browser.requests == [page.as_uri()]
    assert browser.complaints == []
    assert seconds < 10
    assert text_of(browser, "h1") == "3 runs"
    assert browser.value("document.querySelectorAll('#figures tbody tr').length") == 3
    assert (
        browser.value("cards.get('train/loss').plot.data.filter((trace) => trace.line.width > 1).length") == 3
    )


def test_hovering_shows_the_values_of_one_step_in_all_diagrams(browser: Browser, tmp_path: Path):
    page = exported([make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)], tmp_path / "page.html")
    browser.open(page.as_uri())
    browser.wait_for(DRAWN)
    x, y, width, height = box_of(browser, 0)
    browser.move_to(x + width / 2, y + height / 2)
    browser.wait_for("!document.getElementById('tip').hidden")
    assert text_of(browser, "#tip").startswith("step 4")
    assert (
        browser.value("[...document.querySelectorAll('.cursor')].filter((line) => !line.hidden).length") >= 6
    )
    browser.move_to(2, 2)
    browser.wait_for("document.getElementById('tip').hidden")


def test_zooming_one_diagram_zooms_all_and_resets(browser: Browser, tmp_path: Path):
    browser.open(exported([make_run(tmp_path / "a")], tmp_path / "page.html").as_uri())
    browser.wait_for(DRAWN)
    x, y, width, height = box_of(browser, 0)
    browser.drag((x + width * 0.4, y + height / 2), (x + width * 0.7, y + height / 2 + 4))
    browser.wait_for("state.range !== null")
    ranges = browser.value("['val/loss', 'optim/lr'].map((name) => cards.get(name).plot.layout.xaxis.range)")
    assert ranges[0] == ranges[1]
    assert 250 < ranges[0][0] < ranges[0][1] < 800
    browser.value("document.getElementById('reset').click()")
    assert browser.value("cards.get('val/loss').plot.layout.xaxis.range")[0] == 0


def test_the_controls_change_what_is_drawn(browser: Browser, tmp_path: Path):
    browser.open(
        exported([make_run(tmp_path / "a"), make_run(tmp_path / "b")], tmp_path / "page.html").as_uri()
    )
    browser.wait_for(DRAWN)
    browser.value("document.querySelector('[data-axis=tokens]').click()")
    assert browser.value("cards.get('train/loss').plot.data[0].x.at(-1)") == 1000 * 524288
    browser.value("document.querySelector('[data-axis=hours]').click()")
    assert 0.1 < browser.value("cards.get('train/loss').plot.data[0].x.at(-1)") < 0.2
    browser.value("document.getElementById('log').click()")
    assert browser.value("cards.get('train/loss').plot.layout.yaxis.type") == "log"
    assert browser.value("cards.get('health/loss_z').plot.layout.yaxis.type") == "linear"  # it has a sign
    browser.value("document.querySelector('.chip').click()")
    assert browser.value("document.querySelectorAll('.tile').length") == 8
    browser.value(
        "document.getElementById('filter').value = 'loss';"
        "document.getElementById('filter').dispatchEvent(new Event('input'))"
    )
    assert browser.value("document.querySelectorAll('.panel').length") == 3
    browser.value("document.getElementById('theme').click()")
    assert browser.value("document.documentElement.dataset.theme") == "dark"
    assert browser.complaints == []


def test_the_published_curve_is_drawn_on_every_axis(browser: Browser, tmp_path: Path):
    settings = {"reference": "gpt2_124m_fineweb", "batch": {"tokens": 524288}}
    browser.open(exported([make_run(tmp_path / "a", settings=settings)], tmp_path / "page.html").as_uri())
    browser.wait_for(DRAWN)
    dashed = "cards.get('val/loss').plot.data.filter((trace) => trace.line.dash).map(({ x, y }) => [x, y])[0]"
    steps, losses = browser.value(dashed)
    assert dict(zip(steps, losses, strict=True))[1000] == 4.3170
    browser.value("document.querySelector('[data-axis=tokens]').click()")
    assert browser.value(dashed)[0][0] == 250 * 524288
    browser.value("document.querySelector('[data-axis=hours]').click()")
    assert all(0 < hour < 0.2 for hour in browser.value(dashed)[0])
    assert "llm.c, GPT-2 124M on FineWeb" in text_of(browser, "[data-metric='val/loss']")
    assert browser.value("cards.get('train/loss').plot.data.filter((trace) => trace.line.dash).length") == 0
    assert browser.complaints == []


def test_attempts_are_marked(browser: Browser, tmp_path: Path):
    browser.open(exported([make_run(tmp_path / "a", crash_at=450)], tmp_path / "page.html").as_uri())
    browser.wait_for(DRAWN)
    lines = browser.value(
        "cards.get('train/loss').plot.layout.shapes.filter((mark) => mark.line.dash).map((mark) => mark.x0)"
    )
    assert lines == [410]
    assert "attempt 2" in text_of(browser, ".panel")


def test_hostile_names_are_shown_as_text(browser: Browser, tmp_path: Path):
    hostile = "<img src=x onerror=document.title='owned'><b>&amp;"
    run_dir = make_run(tmp_path / hostile.replace("/", "_"), last=100, settings={hostile: hostile})
    log = MetricsLog(run_dir, attempt=0, say=print)
    log.write({"step": 110, "tokens": 1, hostile: 1.0})
    log.write({"alert": hostile, "text": hostile, "level": "WARN"})
    log.write({"event": "sample", "step": 110, "prompt": hostile, "text": hostile})
    log.close()
    other = make_run(tmp_path / "other", last=100)
    for runs in ([run_dir], [run_dir, other]):
        browser.open(exported(runs, tmp_path / "page.html").as_uri())
        browser.wait_for(DRAWN)
        browser.value("document.querySelector('.panel:last-child').scrollIntoView()")
        assert "owned" not in browser.value("document.title").replace(hostile, "")
        assert browser.value("document.querySelectorAll('img').length") == 0
        assert hostile in text_of(browser, "body")
    assert browser.complaints == []


@pytest.mark.parametrize("steps", [0, 10, 30])
def test_a_run_in_its_first_seconds_has_a_page(steps: int, browser: Browser, tmp_path: Path):
    if steps:
        make_run(tmp_path / "run", last=steps, finished=False)
    else:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "metrics.jsonl").touch()
    browser.open(exported([tmp_path / "run"], tmp_path / "page.html").as_uri())
    browser.wait_for(DRAWN if steps else "document.querySelector('.empty') !== null")
    assert browser.complaints == []


def test_a_page_shows_sketches_while_records_are_still_being_read(browser: Browser, tmp_path: Path):
    quick, long = make_run(tmp_path / "a", last=100), make_run(tmp_path / "b", last=50)
    live, being_read = LiveRuns(lambda: [quick, long]), Future()
    live._under_way, live._sketches = {long: being_read}, {long: sketch(long)}
    states = "[...document.querySelectorAll('#figures .pill')].map((pill) => pill.innerText)"
    with server(live, 0) as web:
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        browser.open(f"http://127.0.0.1:{web.server_port}/")
        browser.wait_for(DRAWN)
        assert text_of(browser, "#title") == "2 runs, 1 still being read"
        assert browser.value(states) == ["stopped", "reading"]
        assert browser.value("cards.get('train/loss').curves.map(({ x }) => x.at(-1))") == [100, 50]
        browser.value("document.querySelector('.chip').click()")  # the sketch alone
        assert "1 attempt" not in text_of(browser, "#figures")
        browser.value("document.querySelector('.chip').click()")
        being_read.set_result((read_run(long), None))
        browser.wait_for("data.reading === 0")
        assert text_of(browser, "#title") == "2 runs"
        assert browser.value(states) == ["stopped", "stopped"]
        web.shutdown()
    assert browser.complaints == []


def test_a_live_page_follows_a_run_and_finds_new_ones(browser: Browser, tmp_path: Path):
    run_dir = make_run(tmp_path / "a", last=100, finished=False)
    with server(LiveRuns(lambda: run_directories(tmp_path)), 0) as web:
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        browser.open(f"http://127.0.0.1:{web.server_port}/")
        browser.wait_for(DRAWN)
        assert "100" in text_of(browser, ".tile")
        log = MetricsLog(run_dir, attempt=0, say=print)
        log.write({"step": 110, "tokens": 1, "train/loss": 2.5})
        log.close()
        browser.wait_for("document.querySelector('.tile b').innerText.startsWith('110')")
        make_run(tmp_path / "b", last=50)
        browser.wait_for("document.querySelectorAll('.chip').length === 2")
        web.shutdown()
    asked = {url.rpartition("/")[0] for url in browser.requests if not url.startswith("data:")}
    assert asked == {f"http://127.0.0.1:{web.server_port}"}
    assert browser.complaints == []


def test_what_the_table_names_by_its_beginning_has_a_diagram_for_each(browser: Browser, tmp_path: Path):
    run = make_run(tmp_path / "a")
    log = MetricsLog(run, attempt=0, say=print)
    scores = {"eval/lambada_acc": 0.2, "eval/ptb_ppl": 30.0, "eval/lambada_ppl": 40.0}
    log.write({"step": 2000, **scores, "val/loss/web": 3.0, "layers/h.0/grad_norm": 1.0, "new/metric": 1.0})
    log.close()
    browser.open(exported([run], tmp_path / "page.html").as_uri())
    browser.wait_for(DRAWN)
    found = dict(
        browser.value("sections().map(({ title, panels }) => [title, panels.map((panel) => panel.title)])")
    )
    assert found["Scores"] == ["LAMBADA", "lambada_ppl", "ptb_ppl"]
    assert found["Validation loss by source"] == ["web"]
    assert found["Layers"] == ["h.0/grad_norm"]
    assert found["More"] == ["new/metric"]
    assert browser.complaints == []
