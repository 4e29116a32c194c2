"""Every panel shows something that is logged, and says what it is."""

import ast
import re
from pathlib import Path

import pytest

from pretrain.watching import panels
from pretrain.watching.panels import METRICS, SECTIONS

PACKAGE = Path(panels.__file__).parents[1]


def names_in_the_trainer() -> list[str]:
    """Return a pattern for every text like `group/metric` in the package, the readers of metrics excepted."""
    readers = {"panels.py", "run_summary.py", "run_status.py", "console.py"}
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name not in readers:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.escape(node.value))
                elif isinstance(node, ast.JoinedStr):
                    found.append("".join(map(pattern_of, node.values)))
    return [text for text in found if re.match(r"[a-z]+/\S+$", text)]


def pattern_of(part: ast.expr) -> str:
    """Return a pattern for a part of an f-string."""
    return re.escape(part.value) if isinstance(part, ast.Constant) and isinstance(part.value, str) else r"\w+"


def test_no_metric_has_two_panels():
    assert len(set(METRICS)) == len(METRICS)


@pytest.mark.parametrize("panel", [panel for section in SECTIONS for panel in section.panels])
def test_a_panel_says_what_it_shows(panel):
    assert re.fullmatch(r"[a-z]+/([a-z]+/)?([a-z0-9_]+|\*)", panel.metric)
    assert panel.title
    assert panel.help.endswith(".")


def test_every_panels_metric_is_one_that_the_trainer_logs():
    names = names_in_the_trainer()
    shown = [metric.replace("*", "any_one") for metric in METRICS]
    assert [each for each in shown if not any(re.fullmatch(name, each) for name in names)] == []


def test_a_name_with_a_star_stands_for_all_that_begin_so():
    families = {
        panel.metric: panel.family for section in SECTIONS for panel in section.panels if panel.family
    }
    assert families == {"eval/*": "eval/", "val/loss/*": "val/loss/"}
