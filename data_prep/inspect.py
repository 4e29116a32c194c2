"""Say what a data set holds: sizes, lengths, what was dropped, sample documents.

usage: python -m data_prep.inspect output=DIR [documents=3] [characters=240] [html=FILE]
"""

from dataclasses import dataclass
from pathlib import Path

from conf import compose, typed
from conf.command import run
from data_prep.counts import counts_of
from data_prep.index import Index, Split, read_index
from data_prep.page import page
from data_prep.publish import publish_page
from data_prep.survey import Survey, survey
from data_prep.tokenizer import load_tokenizer

_BAR = 40


@dataclass(frozen=True)
class InspectConfig:
    """Which data set to look at, and how much of its text to print."""

    output: str
    documents: int
    characters: int
    html: str | None

    def __post_init__(self) -> None:
        for name in ("documents", "characters"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative; 0 prints none")


def main(overrides: list[str]) -> None:
    """Print the report of a data set."""
    config = typed(InspectConfig, compose("inspect", overrides))
    index = read_index(Path(config.output))
    tokenizer = load_tokenizer()
    print("\n".join(_head(index)))
    surveys = {
        name: survey(index, split, config.documents) for name, split in index.splits.items() if split.shards
    }
    samples = {
        name: [tokenizer.decode(tokens) for tokens in found.samples] for name, found in surveys.items()
    }
    for name, found in surveys.items():
        print("\n".join(_split_report(name, index.splits[name], found, samples[name], config.characters)))
    if config.html is not None:
        print(f"\n{publish_page(Path(config.html), page(index, surveys, samples))}")


def _head(index: Index) -> list[str]:
    """Return the lines about the whole data set."""
    counts = counts_of(index.counts)
    ratio = counts.text_bytes / max(counts.tokens, 1)
    return [
        f"{index.directory}  fingerprint {index.fingerprint[:16]}",
        f"  {index.tokenizer}, blocks of {index.block_tokens:,} tokens, "
        f"validation by {index.validation_rule}",
        f"  {counts.summary()}",
        f"  {counts.text_bytes / 1e6:,.1f} MB of text, {counts.tokens:,} tokens, {ratio:.2f} bytes per token",
    ]


def _split_report(name: str, split: Split, found: Survey, samples: list[str], characters: int) -> list[str]:
    """Return the lines about one split."""
    lines = [
        "",
        f"{name}: {split.tokens:,} tokens, {split.documents:,} documents, {len(split.shards):,} shards",
        f"  tokens in a document: {found.shortest:,} to {found.longest:,}, median {found.median:,}",
    ]
    largest = max(found.lengths.max(), 1)
    filled = found.lengths.nonzero()[0]
    for power in range(filled[0], filled[-1] + 1) if len(filled) else ():
        count = int(found.lengths[power])
        lines.append(f"  {2**power:>11,} …  {'█' * round(_BAR * count / largest):{_BAR}} {count:,}")
    return lines + [f"  | {_one_line(text, characters)}" for text in samples]


def _one_line(text: str, characters: int) -> str:
    """Return the start of a text, fit for a terminal: no control character reaches it."""
    visible = "".join(c if c.isprintable() else " " for c in text[: 4 * characters])
    return " ".join(visible.split())[:characters]


if __name__ == "__main__":
    run(main, name="data_prep.inspect", config="inspect", usage=__doc__ or "")
