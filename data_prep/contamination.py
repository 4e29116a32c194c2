"""How much of an evaluation set a document holds, by overlap of 8-grams (Radford et al. 2019, GPT-2, §4).

As there, text is taken as lower-case words of letters and digits; what lies between them does not count,
be it a space, a dash or any of the apostrophes. Unicode says what is a letter and what is its lower case
(NFKC and case folding, so that é in one code point or in two, É and ﬁ are what they look like).
Where the paper has Bloom filters, the evaluation sets are small enough to be held as exact 64-bit hashes.
"""

import base64
import hashlib
import json
import sys
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from conf.exits import ConfigError, DatasetError
from data_prep.streams import compression_of, name_of, open_content

WORDS = 8

# Letters and digits of ASCII stand for themselves in lower case; the rest ends a word.
_ASCII = np.array([ord(chr(c).lower()) if chr(c).isalnum() else 0 for c in range(128)], np.uint64)
# A word's hash is a polynomial in an odd number modulo 2**64, which has an inverse: sums over any stretch
# come from running sums. The factor is the LCG multiplier of Steele & Vigna 2021.
_FACTOR = 0xD1342543DE82EF95
_PART_BYTES = 1 << 17  # words are hashed this much text at a time, so that memory stays bounded
_MOST_CODES = 6 * _PART_BYTES  # NFKC makes 18 code points of U+FDFA, which is 3 bytes: no other grows more


@dataclass(frozen=True)
class DecontaminationConfig:
    """Which evaluation sets to look for, and what to do with a document that holds much of them."""

    drop_above: float  # share of a document's 8-grams, 0 to 1
    sets: dict[str, str] = field(default_factory=dict)  # name: file of text, JSON or JSON lines

    def __post_init__(self):
        if not 0 <= self.drop_above <= 1:
            raise ConfigError(f"decontamination.drop_above={self.drop_above} is not in [0, 1]")


@dataclass(frozen=True)
class Evaluation:
    """The 8-grams of all evaluation sets."""

    grams: np.ndarray  # uint64, sorted, each once
    members: Mapping[str, np.ndarray]  # for each set: which of `grams` it has, bool

    def places(self, text: bytes) -> tuple[np.ndarray, float]:
        """Return where in `grams` the 8-grams of a text are, and the share of its 8-grams that are there."""
        found = eight_grams(text)
        if not len(found) or not len(self.grams):
            return np.zeros(0, np.int64), 0.0
        places = np.minimum(np.searchsorted(self.grams, found), len(self.grams) - 1)
        hits = self.grams[places] == found
        return places[hits], float(hits.mean())

    def sha256(self, name: str) -> str:
        """Return what the 8-grams of one set hash to."""
        return hashlib.sha256(self.grams[self.members[name]].tobytes()).hexdigest()


class Overlap:
    """Which 8-grams of the evaluation sets were met, in all documents and in those that are kept."""

    def __init__(self, evaluation: Evaluation):
        self._met = np.zeros((2, len(evaluation.grams)), bool)

    def meet(self, places: np.ndarray, *, kept: bool) -> None:
        """Count the 8-grams at `places` as met."""
        self._met[0, places] = True
        self._met[1, places] |= kept

    def record(self) -> str:
        """Return what was met as JSON writes it: few bytes if it is little."""
        return base64.b64encode(zlib.compress(np.packbits(self._met).tobytes())).decode()

    def add(self, record: str) -> None:
        """Count what another one's `record` holds as met."""
        packed = np.frombuffer(zlib.decompress(base64.b64decode(record)), np.uint8)
        self._met |= np.unpackbits(packed, count=self._met.size).reshape(self._met.shape).astype(bool)

    def table(self, evaluation: Evaluation) -> dict[str, dict[str, int]]:
        """Return, for each set, how many 8-grams it has and how many of them were met."""
        return {
            name: {
                "eight_grams": int(members.sum()),
                "in_corpus": int(self._met[0, members].sum()),
                "in_kept": int(self._met[1, members].sum()),
            }
            for name, members in sorted(evaluation.members.items())
        }


@lru_cache(maxsize=4)
def load_evaluation(sets: tuple[tuple[str, str], ...]) -> Evaluation:
    """Return the 8-grams of the (name, file) pairs; raise DatasetError for a file that has none."""
    by_name: dict[str, np.ndarray] = {}
    for name, path in sets:
        parts = [eight_grams(text.encode("utf-8", "replace")) for text in _texts(path)]
        by_name[name] = np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))
        if not len(by_name[name]):
            raise DatasetError(f"{path} holds no text of {WORDS} words: not an evaluation set")
    grams = np.unique(np.concatenate([np.zeros(0, np.uint64), *by_name.values()]))
    return Evaluation(grams, {name: np.isin(grams, found) for name, found in by_name.items()})


def eight_grams(text: bytes) -> np.ndarray:
    """Return the hash of every 8 successive words: uint64, (words - 7,), or none."""
    words = np.concatenate([np.zeros(0, np.uint64), *(_word_hashes(part) for part in _parts(text))])
    count = len(words) - WORDS + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    grams = np.zeros(count, np.uint64)
    for place in range(WORDS):
        grams = _mix(grams + words[place : place + count])
    return grams


def _parts(text: bytes) -> Iterator[bytes]:
    """Cut a text between words into parts of about `_PART_BYTES`."""
    start = 0
    while len(text) - start > _PART_BYTES:
        end = max(
            text.rfind(b" ", start + 1, start + _PART_BYTES),
            text.rfind(b"\n", start + 1, start + _PART_BYTES),
        )
        if end < 0:
            end = start + _PART_BYTES
            while text[end] & 0xC0 == 0x80:  # inside a character
                end -= 1
        yield text[start:end]
        start = end
    yield text[start:]


def _word_hashes(text: bytes) -> np.ndarray:
    """Return the hash of every word: uint64, (words,)."""
    codes = _ASCII[np.frombuffer(text, np.uint8)] if text.isascii() else _codes(text)
    inside = np.concatenate([[False], codes != 0, [False]])
    starts = np.flatnonzero(inside[1:] & ~inside[:-1])
    ends = np.flatnonzero(inside[:-1] & ~inside[1:])
    powers, inverses = _powers()
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(codes * powers[: len(codes)], dtype=np.uint64)])
    return (sums[ends] - sums[starts]) * inverses[starts]


def _codes(text: bytes) -> np.ndarray:
    """Return the code points of the text's letters and digits in lower case, 0 for all others: uint64."""
    known = unicodedata.normalize("NFKC", text.decode("utf-8", "replace"))
    folded = unicodedata.normalize("NFKC", known.casefold())
    points = np.frombuffer(folded.encode("utf-32-le"), "<u4")
    return points * _word_characters()[points]


@lru_cache(maxsize=1)
def _word_characters() -> np.ndarray:
    """Return which code points are letters, digits, or marks that belong to a letter: uint64, 0 or 1."""
    kinds = [unicodedata.category(chr(point))[0] in "LMN" for point in range(sys.maxunicode + 1)]
    return np.array(kinds, np.uint64)


@lru_cache(maxsize=1)
def _powers() -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of the factor and of its inverse: uint64, (_MOST_CODES + 1,) each."""
    both = []
    for base in (_FACTOR, pow(_FACTOR, -1, 1 << 64)):
        powers = np.full(_MOST_CODES + 1, base, np.uint64)
        powers[0] = 1
        both.append(np.cumprod(powers, dtype=np.uint64))
    return both[0], both[1]


def _mix(x: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers (the splitmix64 finaliser of Steele et al., OOPSLA 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def _texts(path: str) -> Iterator[str]:
    """Yield the texts of an evaluation set: every string of a JSON file, or a text file whole."""
    name = name_of(path)
    stem = (name if compression_of(path) is None else name.rpartition(".")[0]).lower()
    try:
        with open_content(path) as file:
            if stem.endswith((".jsonl", ".ndjson")):
                for line in file:
                    yield from _strings(json.loads(line)) if line.strip() else ()
            elif stem.endswith(".json"):
                yield from _strings(json.loads(file.read()))
            else:
                yield file.read().decode()
    except FileNotFoundError:
        raise DatasetError(f"the evaluation set {path} does not exist") from None
    except ValueError as error:
        raise DatasetError(f"the evaluation set {path} cannot be read: {error}") from None


def _strings(item: object) -> Iterator[str]:
    """Yield every string in a JSON value, keys aside."""
    if isinstance(item, str):
        yield item
    elif isinstance(item, list | dict):
        for part in item.values() if isinstance(item, dict) else item:
            yield from _strings(part)
