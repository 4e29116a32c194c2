"""Which documents are worth training on: few rules, each exact, each with its own count."""

from dataclasses import dataclass

from conf.exits import ConfigError
from data_prep.counts import Drop


@dataclass(frozen=True)
class FilterConfig:
    """Bounds on a document's length in bytes of UTF-8."""

    min_bytes: int
    max_bytes: int  # also bounds the memory of a worker

    def __post_init__(self):
        if not 1 <= self.min_bytes <= self.max_bytes:
            raise ConfigError(
                f"filters.min_bytes={self.min_bytes} with filters.max_bytes={self.max_bytes} leaves nothing; "
                "use 1 ≤ min_bytes ≤ max_bytes"
            )


def reason_to_drop(text: bytes, filters: FilterConfig) -> Drop | None:
    """Return why a document is dropped, or None if it is kept."""
    if not text:
        return Drop.EMPTY
    if len(text) < filters.min_bytes:
        return Drop.TOO_SHORT
    if len(text) > filters.max_bytes:
        return Drop.TOO_LONG
    return None
