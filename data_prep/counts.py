"""What became of every document: totals that must balance, read = kept + dropped(by reason)."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Drop(StrEnum):
    """Why a document is not in the output."""

    EMPTY = "empty"  # no text at all
    UNDECODABLE = "undecodable"  # not UTF-8, and the corpus says errors=drop
    TOO_LONG = "too_long"  # its text is above filters.max_bytes
    LINE_TOO_LONG = "line_too_long"  # a line of JSON that no worker can hold, whatever its text
    TOO_SHORT = "too_short"  # below filters.min_bytes
    CONTAMINATED = "contaminated"  # much of it is in an evaluation set
    DUPLICATE = "duplicate"  # the same text as a document that is kept


@dataclass
class Counts:
    """Totals over some documents."""

    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    text_bytes: int = 0  # of the kept documents, as UTF-8
    tokens: int = 0  # of the kept documents, without end-of-text

    def keep(self, text_bytes: int, tokens: int) -> None:
        """Count one kept document."""
        self.read += 1
        self.kept += 1
        self.text_bytes += text_bytes
        self.tokens += tokens

    def drop(self, reason: Drop) -> None:
        """Count one dropped document."""
        self.read += 1
        self.dropped[reason.value] += 1

    @property
    def balanced(self) -> bool:
        """Whether every document that was read is accounted for."""
        return self.read == self.kept + self.dropped.total()

    def summary(self) -> str:
        """Return the totals for people: "12 documents read, 10 kept, 2 dropped (empty)"."""
        reasons = "".join(f", {count:,} dropped ({reason})" for reason, count in sorted(self.dropped.items()))
        return f"{self.read:,} documents read, {self.kept:,} kept{reasons}"

    def record(self) -> dict[str, Any]:
        """Return the totals as JSON writes them."""
        return {
            "documents_read": self.read,
            "documents_kept": self.kept,
            "documents_dropped": dict(sorted(self.dropped.items())),
            "text_bytes": self.text_bytes,
            "text_tokens": self.tokens,
        }


def counts_of(record: Mapping[str, Any]) -> Counts:
    """Return the totals that `Counts.record` wrote."""
    return Counts(
        read=record["documents_read"],
        kept=record["documents_kept"],
        dropped=Counter(record["documents_dropped"]),
        text_bytes=record["text_bytes"],
        tokens=record["text_tokens"],
    )


def total(parts: Iterable[Counts]) -> Counts:
    """Return the sum of all parts."""
    whole = Counts()
    for part in parts:
        whole.read += part.read
        whole.kept += part.kept
        whole.dropped.update(part.dropped)
        whole.text_bytes += part.text_bytes
        whole.tokens += part.tokens
    return whole
