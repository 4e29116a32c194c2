from pathlib import Path

import pytest

from conf.exits import ConfigError, DatasetError
from data_prep.sources import CorpusConfig, check_unchanged, list_inputs


def found(root: Path, *paths: str, suffixes: tuple[str, ...] = (".txt",)) -> list[str]:
    named = [path if path.startswith("python:") else str(root / path) for path in paths]
    corpus = CorpusConfig(kind="text", paths=named, suffixes=list(suffixes))
    return [str(Path(entry.path).relative_to(root)) for entry in list_inputs(corpus)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "c.md", "deep/er/d.txt", "deep/e.md", ".hidden.txt", "deep/.git/f.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_a_folder_is_walked_for_the_suffixes(root: Path):
    assert found(root, ".") == ["a.txt", "b.txt", "deep/er/d.txt"]
    assert found(root, "deep", suffixes=(".md", ".txt")) == ["deep/e.md", "deep/er/d.txt"]


def test_a_file_is_taken_as_named_and_once(root: Path):
    assert found(root, "c.md", "a.txt", "*.txt", "deep/../a.txt", "c.md") == ["a.txt", "b.txt", "c.md"]


def test_globs_reach_into_folders(root: Path):
    assert found(root, "**/*.md") == ["c.md", "deep/e.md"]
    assert found(root, "de*") == ["deep/er/d.txt"]


def test_a_name_with_the_signs_of_a_glob_is_a_file_if_there_is_one(root: Path):
    (root / "[x].txt").write_text("x")
    assert found(root, "[x].txt") == ["[x].txt"]


def test_a_file_that_changes_or_goes_is_noticed(root: Path):
    corpus = CorpusConfig(kind="text", paths=[str(root / "a.txt")])
    (known,) = list_inputs(corpus)
    check_unchanged(known)
    (root / "a.txt").write_text("other length")
    with pytest.raises(DatasetError, match=r"a\.txt changed .*5 bytes then, 12 now"):
        check_unchanged(known)
    (root / "a.txt").unlink()
    with pytest.raises(DatasetError, match=r"a\.txt is gone"):
        check_unchanged(known)


def test_the_standard_library_is_found_without_its_site_packages():
    corpus = CorpusConfig(kind="text", paths=["python:stdlib"], suffixes=[".py"])
    paths = [entry.path for entry in list_inputs(corpus)]
    assert any(path.endswith("/json/decoder.py") for path in paths)
    assert not any("site-packages" in path or "__pycache__" in path for path in paths)


@pytest.mark.parametrize("wrong", [{"kind": "csv"}, {"errors": "ignore"}, {"paths": []}])
def test_a_corpus_that_cannot_be_is_refused(wrong: dict):
    with pytest.raises(ConfigError, match=f"corpus.{next(iter(wrong))}"):
        CorpusConfig(**{"kind": "text", "paths": ["a"], **wrong})
