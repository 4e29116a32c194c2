"""Tokenizing with gigatoken, several times as fast as tiktoken, and the proof that it is the same.

It is an optional extra, and young. So it must first tokenize a list of hard texts as tiktoken does, and one
document in a hundred is tokenized by both ever after; any difference stops the run.
"""

import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from conf.exits import ConfigError, RefusedError
from data_prep.tokenizer import PIECE_CHARACTERS, Tokenizer, load_tokenizer, pieces_of

BACKENDS = ("tiktoken", "gigatoken")
# One document in so many is tokenized by tiktoken as well: about a tenth of the time that gigatoken saves.
_CHECKED_EVERY = 100
# Where byte-pair encoders differ: contractions, white space, long runs, other scripts, special tokens.
_HARD_TEXTS = (
    "",
    " ",
    "I'll they've don't 'S 'sS 're''d",
    "a  b   c\t\td\n\n\n e \r\n\r\n f\u00a0\u2003\u3000g  ",
    "<|endoftext|> a<|endoftext|>",
    "a" * 1000 + "é" * 600 + " " * 700 + "." * 900 + "\n" * 800,
    "北京大学 かな 한국어 العربية हिन्दी ไทย 🙂👩‍👩‍👧🏽 \u0301e\u0301",
    "0123456789 3.14159 1,000,000 x²½Ⅷ",
    "\x00\x01\x7f\x85\ufeff\ufffd\U0010ffff",
    "def f(x):\n    return {'a': x[0]**2}  # ok\n\n\n" * 50,
)


class Encoder(Protocol):
    """What turns text into tokens."""

    def encode_array(self, text: str) -> np.ndarray:
        """Return the tokens of `text` as uint16, (tokens,)."""
        ...


class FastTokenizer:
    """gigatoken with GPT-2's ranks, checked against tiktoken."""

    def __init__(self, fast: Any, reference: Tokenizer):
        self._fast, self._reference = fast, reference
        self._documents = 0
        for text in _HARD_TEXTS:
            self._compare(text, self._encode(text))

    def encode_array(self, text: str) -> np.ndarray:
        """Return the tokens of `text` as uint16, (tokens,); raise RefusedError if tiktoken's are others."""
        tokens = self._encode(text)
        if self._documents % _CHECKED_EVERY == 0:
            self._compare(text, tokens)
        self._documents += 1
        return tokens

    def _encode(self, text: str) -> np.ndarray:
        pieces = [self._fast.encode(piece).astype(np.uint16) for piece in pieces_of(text, PIECE_CHARACTERS)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _compare(self, text: str, tokens: np.ndarray) -> None:
        if not np.array_equal(tokens, self._reference.encode_array(text)):
            raise RefusedError(
                f"gigatoken and tiktoken disagree on the text {text[:40]!r}…; use tokenizer=tiktoken"
            )


@cache
def load_encoder(backend: str) -> Encoder:
    """Return the tokenizer of a backend; raise ConfigError if it is unknown or not installed."""
    if backend == "tiktoken":
        return load_tokenizer()
    if backend != "gigatoken":
        raise ConfigError(f"tokenizer={backend} is not known; choose one of: {', '.join(BACKENDS)}")
    try:
        gigatoken: Any = import_module("gigatoken")  # an optional extra
    except ImportError:
        raise ConfigError("tokenizer=gigatoken needs the package: pip install gigatoken==0.10.0") from None
    reference = load_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r50k_base.tiktoken")
        path.write_bytes(reference.rank_file())
        # By default it takes special-token text in a document for the token itself.
        fast = gigatoken.Tokenizer.from_tiktoken(path, pretokenizer="gpt2", special_tokens={})
    return FastTokenizer(fast, reference)
