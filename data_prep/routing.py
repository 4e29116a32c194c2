"""Where a document goes: its split, its bucket and its place there, all decided by its text alone.

So neither the number of tasks nor the order of files moves a document, equal texts always meet in one
bucket, and a validation document stays one when the corpus grows.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

_WORD = 1 << 64
# Multiples of 2**64 / golden ratio keep small seeds apart (Steele et al., OOPSLA 2014).
_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class TextHash:
    """The first 128 bits of the SHA-256 of a document's UTF-8 text, as two 64-bit words."""

    high: int
    low: int


def hash_of(text: bytes) -> TextHash:
    """Return the hash that stands for a text: equal hashes are taken for equal texts."""
    digest = hashlib.sha256(text).digest()
    return TextHash(int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big"))


@dataclass(frozen=True)
class Routing:
    """The table of buckets: train's come first, validation's follow."""

    train_buckets: int
    validation_buckets: int
    validation_fraction: float

    @property
    def buckets(self) -> int:
        """The number of buckets of both splits."""
        return self.train_buckets + self.validation_buckets

    def bucket(self, text: TextHash) -> int:
        """Return the bucket of a document.

        The high word chooses the split, as a slice [0, fraction) of the hash space; the low word
        chooses the bucket inside the split.
        """
        if text.high < int(self.validation_fraction * _WORD):
            return self.train_buckets + (text.low * self.validation_buckets >> 64)
        return text.low * self.train_buckets >> 64

    def shard(self, bucket: int) -> tuple[str, str]:
        """Return the split of a bucket and the file name of its shard."""
        if bucket < self.train_buckets:
            return "train", f"train-{bucket:05d}.tar"
        return "validation", f"validation-{bucket - self.train_buckets:05d}.tar"

    def shards_of_both(self, bucket: int) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return `shard` for the train part and for the validation part of a bucket that is cut in two."""
        return self.shard(min(bucket, self.train_buckets - 1)), self.shard(max(bucket, self.train_buckets))


def shuffled(high: np.ndarray, low: np.ndarray, seed: int) -> np.ndarray:
    """Return the order of a bucket's documents: int64 (documents,), seeded, equal hashes side by side."""
    key = _mix(_mix(high ^ np.uint64(seed * _GOLDEN % _WORD)) ^ low)
    return np.lexsort((low, high, key))


def _mix(x: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers (the splitmix64 finaliser of Steele et al., OOPSLA 2014)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
