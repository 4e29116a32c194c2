"""How a report reads as Markdown."""

import re

from pretrain.reporting.document import Document, Section, Table

_SPECIAL = re.compile(r"([\\`*_|<>\[\]#])")


def markdown(document: Document) -> str:
    """Return the whole report."""
    lines = [
        f"# {escaped(document.title)}",
        "",
        f"**{escaped(document.verdict)}.** {escaped(document.lead)}",
        "",
    ]
    lines += table_lines(Table(["", ""], [[label, value, note] for label, value, note in document.tiles]))
    for section in document.sections:
        lines += ["", f"## {escaped(section.title)}", "", *_section_lines(section)]
    return "\n".join(lines).rstrip() + "\n"


def _section_lines(section: Section) -> list[str]:
    lines: list[str] = []
    for paragraph in section.paragraphs:
        lines += [escaped(paragraph), ""]
    if section.table:
        lines += [*table_lines(section.table), ""]
    for quote in section.quotes:
        text = f"{quote.prompt}{quote.text}"
        lines += [*(f"    {line}" for line in text.splitlines()), ""]  # as it stands, whatever it holds
    return lines


def table_lines(table: Table) -> list[str]:
    """Return the lines of a table."""
    width = max([len(table.head), *(len(row) for row in table.rows)])
    head = table.head + [""] * (width - len(table.head))
    lines = [_row(head), "|" + "|".join("---" for _ in head) + "|"]
    return lines + [_row(row + [""] * (width - len(row))) for row in table.rows]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
