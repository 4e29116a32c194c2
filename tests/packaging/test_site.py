"""The documentation as a site: every link leads somewhere, and nothing is fetched from outside."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a browser loads by itself; a link that a reader may follow is none of these.
_LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_with_warnings_as_errors(site: Path):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}


@pytest.mark.slow
def test_a_page_loads_nothing_from_outside(site: Path):
    loaded = {
        page.name: [tag for tag in _LOADED.findall(page.read_text()) if 'rel="canonical"' not in tag]
        for page in site.glob("*.html")
    }
    assert {name: tags for name, tags in loaded.items() if tags} == {}


def test_links_of_the_pages_outside_the_site_lead_somewhere():
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "slurm" / "README.md",
    ):
        links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        local = [link for link in links if "://" not in link]
        assert [link for link in local if not (page.parent / link).exists()] == [], page


def test_the_files_that_a_page_names_are_there():
    named = re.compile(
        r"(?<![\w./-])((?:tests|benchmarks|conf|data_prep|end_to_end|examples|faults|pretrain|slurm)/[\w/.-]+\.\w+)"
    )
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    missing = {
        (page.name, path)
        for page in pages
        for path in named.findall(page.read_text())
        if not (ROOT / path).exists() and not (ROOT / "tests" / path).exists()
    }
    # What the reader is asked to write.
    own = {"conf/cluster/mine.yaml", "conf/corpus/mycorpus.yaml", "conf/model/gpt2_250m.yaml"}
    assert {(page, path) for page, path in missing if path not in own} == set()


def test_the_start_page_leads_to_every_other():
    linked = set(re.findall(r"\]\((\w+)\.md\)", (ROOT / "docs" / "index.md").read_text()))
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert linked >= pages, pages - linked
