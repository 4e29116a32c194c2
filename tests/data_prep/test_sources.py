import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from conf import DIRECTORY, compose, typed
from conf.exits import ConfigError, DatasetError, Exit
from data_prep import prepare
from data_prep.remote import is_remote
from data_prep.sources import CorpusConfig, check_unchanged, list_corpus, list_inputs

DOCS = DIRECTORY.parent / "docs"


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


def test_links_to_folders_are_followed_and_each_folder_is_walked_once(root: Path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "far").mkdir()
    (elsewhere / "far/z.txt").write_text("z")
    (elsewhere / "back").symlink_to(root)  # a loop
    (root / "a-link").symlink_to(elsewhere)
    (root / "b-link").symlink_to(elsewhere)
    (root / "a-deep").symlink_to(root / "deep")
    assert found(root, ".") == ["a-link/far/z.txt", "a.txt", "b.txt", "deep/er/d.txt"]


def test_endings_are_compared_in_any_case(root: Path):
    (root / "deep/G.TXT").write_text("g")
    (root / "deep/H.Txt.GZ").write_text("h")
    assert found(root, "deep", suffixes=(".Txt",)) == ["deep/G.TXT", "deep/H.Txt.GZ", "deep/er/d.txt"]


def test_what_a_folder_holds_beside_the_corpus_is_told(root: Path, capsys: pytest.CaptureFixture[str]):
    corpus = CorpusConfig(kind="text", paths=[str(root), str(root / "deep")], suffixes=[".txt"])
    left_out = [f"{root}/{name}" for name in (".hidden.txt", "c.md", "deep/.git/", "deep/e.md")]
    assert list_corpus(corpus).left_out == left_out
    assert list_corpus(replace(corpus, paths=[*corpus.paths, str(root / "c.md")])).left_out == [
        left_out[0],
        *left_out[2:],
    ]
    prepare.main(["corpus=text", f"corpus.paths=[{root}]", "corpus.suffixes=[.txt]", f"output={root}/.data"])
    assert (
        "note: 4 files or folders beside the corpus's are left out, hidden or not ending in .txt: "
        f"{', '.join(left_out[:3])}, …\n"
    ) in capsys.readouterr().out


@pytest.fixture
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a corpus of which a plain user, as whom the test goes on, may not read all."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    for name in ("a.txt", "file/b.txt", "folder/c.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "output").mkdir()
    for name, mode in (("", 0o755), ("file/b.txt", 0), ("folder", 0), ("output", 0o777)):
        (folder / name).chmod(mode)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nobody: root may read whatever it likes
    yield folder
    os.seteuid(user)
    (folder / "folder").chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("paths", ["", "*", "**/*.txt", "*/*.txt", "folder", "folder/c.txt", "file"])
def test_what_cannot_be_read_is_one_line(paths: str, locked: Path, exit_line: Callable[..., tuple[int, str]]):
    code, line = exit_line(
        "prepare", "corpus=text", f"corpus.paths=['{locked}/{paths}']", f"output={locked}/output/data"
    )
    assert (code, line.count("\n")) == (Exit.DATASET, 1), line
    assert f"{locked}/{'file/b.txt' if paths == 'file' else 'folder'}" in line
    assert "Permission denied" in line


def test_an_output_that_may_not_be_written_is_one_line(
    locked: Path, exit_line: Callable[..., tuple[int, str]]
):
    code, line = exit_line("prepare", "corpus=text", f"corpus.paths=[{locked}/a.txt]", f"output={locked}")
    assert (code, line.count("\n")) == (Exit.CONFIG, 1), line
    assert f"{locked}/" in line
    assert "Permission denied" in line


def test_a_link_that_leads_nowhere_is_one_line(root: Path):
    (root / "deep/f.txt").symlink_to("none")
    with pytest.raises(DatasetError, match=r"deep/f\.txt cannot be read: No such file"):
        found(root, ".")


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


@pytest.mark.parametrize("preset", PRESETS)
def test_the_help_and_the_page_name_every_preset(preset: str):
    assert re.search(rf"\b{preset}\b", prepare.__doc__ or "")
    assert f"| `{preset}` |" in (DOCS / "corpora.md").read_text()


def test_the_corpus_that_the_pages_show_finds_its_files_in_a_folder(tmp_path: Path):
    shown = [
        block
        for page in sorted(DOCS.glob("*.md"))
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)
        if re.search(r"^kind: ", block, re.M)
    ]
    assert len(shown) == 1, "one place shows how a corpus is written"
    corpus = typed(CorpusConfig, OmegaConf.create({**OmegaConf.create(shown[0]), "paths": [str(tmp_path)]}))
    for packed in ("", ".gz", ".zst"):
        (tmp_path / f"part{corpus.suffixes[0]}{packed}").touch()
    (tmp_path / "SHA256SUMS").touch()
    assert len(list_inputs(corpus)) == 3


def test_the_hub_is_asked_for_what_a_preset_names(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import HfFileSystem

    name = "datasets/roneneldan/TinyStories/data/train-00000-of-00004.parquet"
    asked = []

    def info(self: HfFileSystem, path: str, **options: object) -> dict[str, object]:
        assert path.removeprefix("hf://") == name
        return {"size": 10, "blob_id": "abc"}

    monkeypatch.setattr(
        HfFileSystem,
        "glob",
        lambda self, pattern, **options: asked.append(pattern) or {name: {"type": "file"}},
    )
    monkeypatch.setattr(HfFileSystem, "info", info)
    corpus = typed(CorpusConfig, compose("prepare", ["corpus=tinystories", "output=x"]).corpus)
    (found,) = list_inputs(corpus)
    assert asked == ["hf://datasets/roneneldan/TinyStories/data/train-*.parquet"]
    assert (found.path, found.bytes, found.version) == (f"hf://{name}", 10, "abc")
