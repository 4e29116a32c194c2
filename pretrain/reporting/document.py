"""What a report consists of, however it is written down: a verdict, key figures, sections with tables."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Rows of texts. Columns whose every cell is a number are set to the right."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Curve:
    """A line of a diagram: (tokens, loss), ascending in tokens."""

    name: str
    tone: str  # run | reference | faint
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Diagram:
    """Losses over tokens."""

    title: str
    curves: list[Curve]
    levels: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Quote:
    """A text as a model wrote it."""

    prompt: str
    text: str


@dataclass(frozen=True)
class Section:
    """What answers one question."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    table: Table | None = None
    diagram: Diagram | None = None
    quotes: list[Quote] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    verdict: str
    tone: str  # good | warn | bad | plain
    lead: str
    tiles: list[tuple[str, str, str]]  # (label, value, a few words)
    sections: list[Section]
