from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import as_jsonl, documents

from conf.exits import DatasetError
from data_prep import prepare
from data_prep.plan import read_plan
from data_prep.shuffle import map_unit
from data_prep.tokenizer import Tokenizer, load_tokenizer


class Meddling:
    """A tokenizer during whose work the input changes."""

    def __init__(self, change: Callable[[], object]):
        self._change = change

    def encode_array(self, text: str):
        self._change()
        return load_tokenizer().encode_array(text)


@pytest.mark.parametrize("when", ["before", "during"])
def test_input_that_changes_before_or_during_the_work_never_becomes_a_unit(when: str, tmp_path: Path):
    path = as_jsonl(tmp_path / "a.jsonl", documents(300))
    output = tmp_path / "data"
    prepare.main(["corpus=jsonl", f"corpus.paths=[{path}]", f"output={output}", "workers=1", "task_count=2"])

    def change() -> None:
        as_jsonl(path, documents(299))

    if when == "before":
        change()
    encoder: Tokenizer | Meddling = load_tokenizer() if when == "before" else Meddling(change)
    with pytest.raises(DatasetError, match=r"a\.jsonl changed since the work was planned"):
        map_unit(read_plan(output), output, 1, encoder)
    assert not (output / "spill/unit-000001.json").exists()
    assert not (output / "spill/unit-000001.spill").exists()
