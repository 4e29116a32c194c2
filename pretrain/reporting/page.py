"""How a report looks as one HTML file: its style and drawings within, nothing from outside, no script."""

import re
from html import escape
from pathlib import Path

from pretrain.reporting.chart import svg
from pretrain.reporting.document import Document, Section, Table

_STYLE = Path(__file__).with_name("page.css")
_NUMBER = re.compile(r"[–?$+\-−]?[\d,.]*( ?%|[kMBT])?")


def page(document: Document) -> str:
    """Return the whole page."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(document.title)}: {escape(document.verdict)}</title>",
            f"<style>{_STYLE.read_text()}</style></head><body><main>",
            f'<header class="{document.tone}"><p class="name">{escape(document.title)}</p>'
            f"<h1>{escape(document.verdict)}</h1><p>{escape(document.lead)}</p></header>",
            '<div class="tiles">',
            *(
                f'<div class="tile"><i>{escape(label)}</i><b>{escape(value)}</b><em>{escape(note)}</em></div>'
                for label, value, note in document.tiles
            ),
            "</div>",
            *(_section(section) for section in document.sections),
            "</main></body></html>",
            "",
        ]
    )


def _section(section: Section) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    parts += [f"<p>{_linked(paragraph)}</p>" for paragraph in section.paragraphs]
    if section.diagram and (drawn := svg(section.diagram)):
        parts.append(f'<figure class="card">{drawn}</figure>')
    if section.table:
        parts.append(f'<div class="card scroll">{_table(section.table)}</div>')
    for quote in section.quotes:
        parts.append(
            f'<blockquote class="card"><b>{escape(quote.prompt)}</b>{escape(quote.text)}</blockquote>'
        )
    return "\n".join([*parts, "</section>"])


def _table(table: Table) -> str:
    right = [
        bool(table.rows) and all(_NUMBER.fullmatch(row[column]) for row in table.rows if column < len(row))
        for column in range(len(table.head))
    ]

    def cells(row: list[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=right' if right[column] else ''}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(row)
        )

    head = f"<thead><tr>{cells(table.head, 'th')}</tr></thead>"
    rows = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    return f"<table>{head}<tbody>{rows}</tbody></table>"


def _linked(text: str) -> str:
    """Return the text with its addresses as links, which are followed only when a reader clicks."""
    return re.sub(
        r"https://[\w./%#?=~-]+", lambda found: f'<a href="{found[0]}">{found[0]}</a>', escape(text)
    )
