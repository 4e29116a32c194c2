"""A chart is short whatever it shows, and its numbers are said as people say them."""

import pytest

from pretrain.reporting.chart import short, svg
from pretrain.reporting.document import Curve, Diagram


def test_a_long_curve_is_drawn_with_few_points_and_keeps_its_end():
    points = [(float(tokens), 10.0 / tokens) for tokens in range(1, 50_001)]
    drawn = svg(Diagram("d", [Curve("c", "run", points)]))
    assert len(drawn) < 20_000
    assert drawn.count("<polyline") == 1


def test_a_diagram_of_nothing_is_nothing():
    assert svg(Diagram("d", [Curve("c", "run", [])])) == ""


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12"), (524_288, "524k"), (10_255_073_280, "10.3B"), (3e12, "3T")]
)
def test_tokens_are_said_as_people_say_them(count: float, text: str):
    assert short(count) == text
