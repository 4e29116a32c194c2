"""A report says of a run what a person who knows the published curve would say, in two forms."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_parts import Parts
from planted_runs import (
    behind,
    diverged,
    not_a_number,
    not_a_number_for_once,
    on_track,
    plant,
    published,
)

from conf.exits import ConfigError, DatasetError
from pretrain import report
from pretrain.reporting.markdown import escaped, markdown
from pretrain.reporting.page import page
from pretrain.reporting.scorecard import scorecard
from pretrain.reporting.sections import document
from pretrain.watching.reference import named
from pretrain.watching.run_log import read_run

ROOT = Path(__file__).parents[3]


def written(run_dir: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[str, str, str]:
    report.main([f"run_dir={run_dir}", *more])
    said = capsys.readouterr().out
    return said, (run_dir / "report.md").read_text(), (run_dir / "report.html").read_text()


@pytest.mark.parametrize(
    ("loss", "verdict", "tone"),
    [
        (on_track, "On track", "good"),
        (behind, "Behind by 0.060 nats", "warn"),
        (diverged, "Diverged", "bad"),
        (not_a_number, "Diverged", "bad"),
        (not_a_number_for_once, "On track", "good"),
        (lambda step: published(step) - 0.1, "Ahead by 0.100 nats", "good"),
    ],
)
def test_the_verdict_is_the_planted_one(
    loss: Callable[[int], float], verdict: str, tone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    said, text, html = written(plant(tmp_path / "run", loss), capsys)
    assert verdict in said
    assert f"**{verdict}" in text
    assert f'<header class="{tone}">' in html
    assert verdict in "".join(Parts(html).words)


def easier(step: int) -> float:
    return published(step) - 1.5


@pytest.mark.parametrize("corpora", [["tinystories"], ["fineweb_10bt", "tinystories"]])
def test_a_run_on_another_corpus_is_not_judged_by_the_references_losses(
    corpora: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    said, text, html = written(plant(tmp_path / "run", easier, corpora=corpora), capsys)
    assert "Nothing to compare with" in said
    assert "The run reads tinystories, which is not the corpus of llm.c, GPT-2 124M on FineWeb" in said
    assert "fineweb\\_10bt or fineweb\\_100bt" in text
    assert not re.search(r"Ahead by|On track|3\.3924", text), "no loss of the reference is shown"
    assert "0.2945" in text, "HellaSwag is the same everywhere"
    assert re.findall('<polyline class="curve (.*?)"', html) == ["faint", "run"]


def test_a_run_on_another_corpus_may_still_diverge(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said, _, _ = written(plant(tmp_path / "run", diverged, corpora=["stdlib"]), capsys)
    assert "Diverged" in said


@pytest.mark.parametrize("corpora", [[None], None])
def test_a_run_whose_corpus_has_no_name_is_judged_with_an_if(
    corpora: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    said, _, html = written(plant(tmp_path / "run", easier, corpora=corpora), capsys)
    assert "Ahead by 1.500 nats, if the corpus is fineweb_10bt or fineweb_100bt" in said
    assert '<header class="plain">' in html


def test_the_distance_stands_beside_what_the_reference_was_validated_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _, text, _ = written(plant(tmp_path / "run", on_track), capsys)
    assert "validated on the first 10,485,760 tokens of its validation shard" in text
    assert "This run's validation split holds other documents of the corpus" in text
    _, text, _ = written(plant(tmp_path / "demo", on_track, reference="demo", corpora=["stdlib"]), capsys)
    assert "holds other documents" not in text


def test_an_attempt_that_was_not_finite_is_no_verdict_on_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_dir = plant(tmp_path / "run", not_a_number)
    record = run_dir / "metrics.jsonl"
    started = json.loads(record.read_text().splitlines()[0])
    again = {"attempt": 1, "time": started["time"] + 10_000}
    lines = [
        {**started, **again},
        {**again, "step": 7750, "tokens": 7750 * 524_288, "train/loss": 3.46, "val/loss": published(7750)},
    ]
    for line in lines:
        with record.open("a") as file:
            file.write(json.dumps(line) + "\n")
        said, _, _ = written(run_dir, capsys)
        assert "On track" in said


def test_a_run_that_ended_between_two_reports_for_want_of_a_finite_gradient_has_diverged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run_dir = plant(tmp_path / "run", on_track)
    with (run_dir / "metrics.jsonl").open("a") as file:
        end = {"attempt": 0, "time": 1_795_100_000.0, "event": "stopped", "exit_code": 14}
        file.write(json.dumps(end) + "\n")
    said, _, _ = written(run_dir, capsys)
    assert "Diverged" in said


def test_a_run_behind_is_told_how_many_tokens_ago_the_reference_was_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    said, _, _ = written(plant(tmp_path / "run", behind), capsys)
    # At 10,000 steps llm.c had 3.3924; it had 3.4524, which this run has, between 7,500 and 7,750 steps.
    assert "3.4524 after 5.24B tokens" in said
    assert re.search(r"nats, 1\.2\dB tokens", said)


def test_recipe_speed_cost_and_what_was_survived_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    schedule = {"shape": "cosine", "peak": 1.8e-3, "warmup_steps": 700, "final_fraction": 0.0}
    run_dir = plant(tmp_path / "run", on_track, crash_at=5000, schedule=schedule)
    end = (
        '{"attempt": 0, "event": "end", "time": 1.0, "reason": "SIGKILL", "exit_code": null, "step": 5100}\n'
    )
    (run_dir / "attempts.jsonl").write_text(end)
    _, text, _ = written(run_dir, capsys)
    assert "| schedule.peak | 0.0018 | 0.0006 |" in text
    assert "| optim.weight\\_decay" not in text
    assert "| llm.c | 8 × H100 | 468,114 | 40.5% |" in text  # as llm.c's step time and the formula give it
    assert "| 0 | 5,100 | SIGKILL |" in text
    assert "2 starts" in text
    gpu_hours = 8 * 10_000 * 0.15 / 3600
    assert f"{gpu_hours:,.2f} GPU hours" in text
    assert f"{3.5 * gpu_hours:,.2f}" in text


def test_a_price_can_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, text, _ = written(plant(tmp_path / "run", on_track), capsys, "usd_per_gpu_hour=10")
    assert f"${10 * 8 * 10_000 * 0.15 / 3600:,.2f}" in text


def test_the_page_asks_nothing_of_anybody_and_no_text_of_a_run_becomes_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    _, text, html = written(plant(tmp_path / "run", on_track), capsys)
    parts = Parts(html)
    assert parts.loaded == []
    assert not {"script", "img", "link", "iframe", "object"} & set(parts.tags)
    assert "default-src 'none'" in html
    assert "url(" not in html
    assert "@import" not in html
    assert " | answered <b>with</b> a wave." in "".join(parts.words)
    assert "    The sea | answered <b>with</b> a wave." in text


def test_a_run_is_compared_with_the_reference_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = plant(tmp_path / "run", on_track)
    said, _, _ = written(run_dir, capsys, "reference=gpt2_355m_fineweb")
    assert "llm.c, GPT-2 355M on FineWeb" in said
    assert "Behind" in said


def test_the_reference_shows_on_a_run_that_lies_upon_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, _, html = written(plant(tmp_path / "run", on_track), capsys)
    drawn = re.findall('<polyline class="curve (.*?)"', html)
    assert drawn == ["faint", "run", "reference"]


def test_a_run_without_a_reference_is_told_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said, _, _ = written(plant(tmp_path / "run", on_track, reference=None), capsys)
    assert "Nothing to compare with" in said


def test_a_run_that_diverged_is_found_without_any_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    said, _, _ = written(plant(tmp_path / "run", diverged, reference=None), capsys)
    assert "Diverged" in said


def test_a_run_that_has_only_begun_has_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text(
        '{"attempt": 0, "time": 1.0, "event": "started", "settings": {"steps": 10}}\n'
    )
    said, _, _ = written(run_dir, capsys)
    assert "Nothing validated yet" in said


@pytest.mark.slow
def test_a_real_run_has_a_report(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run_dir = tmp_path / "run"
    shutil.copytree(tiny_run, run_dir)
    said, text, html = written(run_dir, capsys)
    assert "is finished at step 20 of 20" in said
    assert "Nothing to compare with" in said
    for title in ("Loss at the same tokens", "Throughput", "Cost", "What it survived"):
        assert f"## {title}" in text
        assert f"<h2>{title}</h2>" in html


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        ([], ConfigError),
        (["run_dir=A", "runs=B"], ConfigError),
        (["run_dir=ABSENT"], ConfigError),
        (["runs=ABSENT"], ConfigError),
        (["usd_per_gpu_hour=-1", "run_dir=A"], ConfigError),
    ],
)
def test_a_wrong_request_is_refused(overrides: list[str], error: type[Exception]):
    with pytest.raises(error):
        report.main(overrides)


def test_an_empty_folder_of_runs_is_refused(tmp_path: Path):
    with pytest.raises(DatasetError, match="nothing has been logged"):
        report.main([f"runs={tmp_path}"])


def test_markdown_shows_a_text_as_it_is():
    assert escaped("a|b\n*c* _d_ <e>") == "a\\|b \\*c\\* \\_d\\_ \\<e\\>"


def test_a_report_imports_no_torch():
    code = "import sys, pretrain.report; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_both_forms_say_the_same(tmp_path: Path):
    run = read_run(plant(tmp_path / "run", behind))
    found = document(scorecard(run, named("gpt2_124m_fineweb"), usd_per_gpu_hour=None))
    words = "".join(Parts(page(found)).words)
    for section in found.sections:
        assert section.title in words
        assert escaped(section.title) in markdown(found)
        for row in section.table.rows if section.table else []:
            assert all(cell in words for cell in row)
