"""Every panel shows something that is logged, and says what it is."""

import ast
import re
from pathlib import Path

import pytest

from pretrain.watching import panels
from pretrain.watching.panels import METRICS, SECTIONS

PACKAGE = Path(panels.__file__).parents[1]


def names_in_the_trainer() -> set[str]:
    """Return every text like `group/metric` in the package, the readers of metrics excepted."""
    readers = {"panels.py", "run_summary.py", "run_status.py", "console.py"}
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name not in readers:
            texts = (
                node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
            )
            found |= {text for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z]+/\w+", text)}
    return found


def test_no_metric_has_two_panels():
    assert len(set(METRICS)) == len(METRICS)


@pytest.mark.parametrize("panel", [panel for section in SECTIONS for panel in section.panels])
def test_a_panel_says_what_it_shows(panel):
    assert re.fullmatch(r"[a-z]+/[a-z0-9_]+", panel.metric)
    assert panel.title
    assert panel.help.endswith(".")


def test_every_panels_metric_is_one_that_the_trainer_logs():
    assert set(METRICS) - names_in_the_trainer() == set()
