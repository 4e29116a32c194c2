import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpora import as_jsonl, documents, hashes

from conf.exits import Exit, RefusedError
from data_prep.fast_tokenizer import FastTokenizer, load_encoder
from data_prep.tokenizer import load_tokenizer

Make = Callable[..., Path]


class Wrong:
    """A tokenizer that differs from GPT-2's on one kind of text."""

    def __init__(self, where: str):
        self._where = where

    def encode(self, text: str) -> np.ndarray:
        tokens = load_tokenizer().encode_array(text).astype(np.uint32)
        return tokens[::-1] if self._where in text else tokens


def test_a_backend_that_fails_the_hard_texts_never_starts():
    with pytest.raises(RefusedError, match="disagree"):
        FastTokenizer(Wrong("北京"), load_tokenizer())


def test_a_difference_in_the_corpus_stops_the_run():
    tokenizer = FastTokenizer(Wrong("only here"), load_tokenizer())
    for _ in range(100):
        tokenizer.encode_array("elsewhere")
    with pytest.raises(RefusedError, match="it is only here"):
        tokenizer.encode_array("it is only here")


def test_an_unknown_or_missing_backend_is_one_line(tmp_path: Path, exit_line: Callable, monkeypatch):
    as_jsonl(tmp_path / "a.jsonl", documents(3))
    arguments = ["corpus=jsonl", f"corpus.paths=[{tmp_path}/a.jsonl]", f"output={tmp_path}/data", "workers=1"]
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    load_encoder.cache_clear()
    for name, message in (("fastest", "tiktoken, gigatoken"), ("gigatoken", "pip install gigatoken")):
        code, line = exit_line("prepare", *arguments, f"tokenizer={name}")
        assert (code, line.count("\n")) == (Exit.CONFIG, 1)
        assert message in line


@pytest.mark.skipif(importlib.util.find_spec("gigatoken") is None, reason="gigatoken is not installed")
def test_both_backends_give_the_same_bytes(make: Make, tmp_path: Path):
    path = as_jsonl(tmp_path / "a.jsonl", documents(300))
    expected = hashes(make([path], name="tiktoken"))
    assert hashes(make([path], "tokenizer=gigatoken", name="gigatoken")) == expected
