"""A data set on one HTML page: figures, plots and sample documents, in one file that asks nobody for more."""

from collections.abc import Mapping, Sequence
from html import escape

from data_prep.counts import counts_of
from data_prep.index import Index
from data_prep.survey import Survey

_WIDTH, _BAR, _GAP, _LABEL, _NUMBER = 640, 16, 4, 130, 90
_SHARDS_SHOWN = 50  # a plot of a thousand shards helps nobody
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --bar: #3b76af; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; border-bottom: 1px solid var(--line); }
td { text-align: right; font-variant-numeric: tabular-nums; } th { text-align: left; font-weight: 600; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid var(--bar); padding-left: 1rem; }
svg { max-width: 100%; height: auto; } rect { fill: var(--bar); }
text { font: 12px system-ui, sans-serif; fill: currentColor; }
code { overflow-wrap: anywhere; }
"""


def page(index: Index, surveys: Mapping[str, Survey], samples: Mapping[str, Sequence[str]]) -> str:
    """Return the page; `samples` holds the text of some documents of each split."""
    counts = counts_of(index.counts)
    ratio = counts.text_bytes / max(counts.tokens, 1)
    facts = {
        "fingerprint": index.fingerprint,
        "tokenizer": f"{index.tokenizer}, vocabulary {index.vocabulary_sha256[:16]}",
        "block": f"{index.block_tokens:,} tokens",
        "validation": f"by {index.validation_rule}",
        "text": f"{counts.text_bytes / 1e6:,.1f} MB, {ratio:.2f} bytes per token",
        "documents": counts.summary(),
    }
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        f"<meta http-equiv='Content-Security-Policy' content=\"{_POLICY}\">",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{escape(index.directory.name)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(index.directory.name)}</h1>",
        _table([[name, f"<code>{escape(value)}</code>"] for name, value in facts.items()]),
        "<h2>What became of the documents</h2>",
        _bars([("kept", counts.kept), *sorted(counts.dropped.items())]),
    ]
    for name, found in surveys.items():
        parts += _split(index, name, found, samples[name])
    return "\n".join(parts) + "\n"


def _split(index: Index, name: str, found: Survey, samples: Sequence[str]) -> list[str]:
    """Return the section of one split."""
    split = index.splits[name]
    figures = {
        "tokens": split.tokens,
        "documents": split.documents,
        "shards": len(split.shards),
        "bytes": sum(shard.bytes for shard in split.shards),
        "shortest document, tokens": found.shortest,
        "median document, tokens": found.median,
        "longest document, tokens": found.longest,
    }
    filled = found.lengths.nonzero()[0]
    classes = range(int(filled[0]), int(filled[-1]) + 1) if len(filled) else range(0)
    return [
        f"<h2>{name}</h2>",
        _table([[key, f"{value:,}"] for key, value in figures.items()]),
        "<h3>Documents by length in tokens</h3>",
        _bars([(f"{2**power:,} – {2 ** (power + 1) - 1:,}", int(found.lengths[power])) for power in classes]),
        "<h3>Tokens of each shard</h3>",
        _bars([(shard.name, shard.tokens) for shard in split.shards[:_SHARDS_SHOWN]]),
        "<h3>Sample documents</h3>",
        *(f"<pre>{escape(text)}</pre>" for text in samples),
    ]


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{value}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>"


def _bars(rows: Sequence[tuple[str, int]]) -> str:
    """Return a bar chart as SVG: one row for each (label, number)."""
    largest = max((number for _, number in rows), default=0) or 1
    shapes = []
    for place, (label, number) in enumerate(rows):
        y = place * (_BAR + _GAP)
        width = (_WIDTH - _LABEL - _NUMBER) * number / largest
        shapes.append(
            f"<text x='{_LABEL - 8}' y='{y + 12}' text-anchor='end'>{escape(label)}</text>"
            f"<rect x='{_LABEL}' y='{y}' width='{width:.1f}' height='{_BAR}'/>"
            f"<text x='{_LABEL + width + 6:.1f}' y='{y + 12}'>{number:,}</text>"
        )
    height = len(rows) * (_BAR + _GAP)
    return f"<svg width='{_WIDTH}' height='{height}' viewBox='0 0 {_WIDTH} {height}'>{''.join(shapes)}</svg>"
