"""Which metrics a dashboard shows, in which order, and how it explains them: the table is panels.yaml."""

from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Panel:
    """One diagram. Unit "%" shows a fraction in per cent; other units are written beside the title.

    A metric val/loss/* stands for all that begin with val/loss/ and have no panel of their own.
    """

    metric: str
    title: str
    help: str
    unit: str = ""

    @property
    def family(self) -> str | None:
        """Return how its metrics begin, None if it shows one alone."""
        return self.metric.removesuffix("*") if self.metric.endswith("/*") else None


@dataclass(frozen=True)
class Section:
    """Panels that answer one question together."""

    title: str
    panels: tuple[Panel, ...]


def _sections() -> tuple[Section, ...]:
    table = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return tuple(
        Section(title, tuple(Panel(metric, **row) for metric, row in panels.items()))
        for title, panels in table.items()
    )


SECTIONS = _sections()
METRICS = tuple(panel.metric for section in SECTIONS for panel in section.panels)
