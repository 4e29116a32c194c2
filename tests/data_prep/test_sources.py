import re
from pathlib import Path

import pytest

from conf import DIRECTORY, compose, typed
from conf.exits import ConfigError, DatasetError
from data_prep.remote import is_remote
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


PRESETS = sorted(path.stem for path in (DIRECTORY / "corpus").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_corpus(preset: str):
    written = (DIRECTORY / f"corpus/{preset}.yaml").read_text()
    paths = ["corpus.paths=[x]"] if "paths: ???" in written else []
    corpus = typed(CorpusConfig, compose("prepare", [f"corpus={preset}", "output=x", *paths]).corpus)
    assert all(suffix.startswith(".") for suffix in corpus.suffixes)
    assert corpus.name == (None if paths else preset)
    if is_remote(corpus.paths[0]):
        assert corpus.kind == "parquet"
        told = (
            f"{corpus.expected_documents:,} "
            if corpus.expected_documents
            else "none is expected|1,801,350 rows"
        )
        assert re.search(told, written), "its number of documents, or that it is not known"


def test_the_hub_is_asked_for_what_a_preset_names(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import HfFileSystem

    name = "datasets/roneneldan/TinyStories/data/train-00000-of-00004.parquet"
    asked = []

    def info(self: HfFileSystem, path: str, **options: object) -> dict[str, object]:
        assert path.removeprefix("hf://") == name
        return {"size": 10, "blob_id": "abc"}

    monkeypatch.setattr(
        HfFileSystem, "glob", lambda self, pattern, **options: asked.append(pattern) or [name]
    )
    monkeypatch.setattr(HfFileSystem, "info", info)
    corpus = typed(CorpusConfig, compose("prepare", ["corpus=tinystories", "output=x"]).corpus)
    (found,) = list_inputs(corpus)
    assert asked == ["hf://datasets/roneneldan/TinyStories/data/train-*.parquet"]
    assert (found.path, found.bytes, found.version) == (f"hf://{name}", 10, "abc")
