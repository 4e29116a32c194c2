import itertools
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from corpora import as_jsonl, documents

from data_prep import inspect
from data_prep.index import read_index

Make = Callable[..., Path]


def test_the_report_adds_up(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    texts = documents(150)
    output = make([as_jsonl(tmp_path / "a.jsonl", [*texts, *texts[:7], ""])])
    capsys.readouterr()
    inspect.main([f"output={output}", "documents=2"])
    report = capsys.readouterr().out
    index = read_index(output)
    assert "158 documents read, 150 kept, 7 dropped (duplicate), 1 dropped (empty)" in report
    assert f"train: {index.splits['train'].tokens:,} tokens" in report
    bars = [line for line in report.splitlines() if "…" in line and "|" not in line]
    assert sum(int(line.split()[-1].replace(",", "")) for line in bars) == 150
    assert report.count("\n  | ") == 4


def test_no_control_character_of_the_corpus_reaches_the_terminal(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "a.txt").write_text("\x1b[2J\x1b]0;owned\x07 text \x9b \u202e" * 20)
    output = make([tmp_path / "a.txt"], kind="text")
    capsys.readouterr()
    inspect.main([f"output={output}"])
    report = capsys.readouterr().out
    assert "text" in report
    assert not set(report) & set("\x1b\x07\x9b\u202e")


def test_the_page_is_one_file_that_shows_text_as_text(make: Make, tmp_path: Path):
    (tmp_path / "a.txt").write_text("<script>alert(1)</script> & more " * 500)
    output = make([tmp_path / "a.txt"], kind="text")
    path = tmp_path / "page.html"
    inspect.main([f"output={output}", f"html={path}"])
    page = path.read_text()
    index = read_index(output)
    assert index.fingerprint in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert not re.search(r"(src|href|url|@import)\s*[=(]", page)
    labels = re.findall(r">([^<]*)</text>", page)
    for shard in index.splits["train"].shards:
        assert (shard.name, f"{shard.tokens:,}") in itertools.pairwise(labels)


def test_every_chart_of_the_page_is_well_formed(make: Make, tmp_path: Path):
    output = make([as_jsonl(tmp_path / "a.jsonl", documents(50))])
    inspect.main([f"output={output}", f"html={tmp_path}/page.html"])
    charts = re.findall(r"<svg.*?</svg>", (tmp_path / "page.html").read_text())
    assert len(charts) == 5
    for chart in charts:
        widths = [float(bar.attrib["width"]) for bar in ElementTree.fromstring(chart).iter("rect")]
        assert max(widths) == 420.0
        assert min(widths) >= 0
