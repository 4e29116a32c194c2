"""The published runs are cited data, and a run's distance to one is what an independent hand computes."""

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from conf import DIRECTORY, compose
from conf.exits import ConfigError
from pretrain.watching.reference import (
    AHEAD,
    BEHIND,
    DIVERGED,
    ON_TRACK,
    UNKNOWN,
    Level,
    Point,
    RecipeSetting,
    Reference,
    distance,
    loss_at,
    named,
    other_corpora,
    standing,
    tokens_at,
    tolerance_at,
    without_losses,
)

FILES = sorted((DIRECTORY / "references").glob("*.yaml"))
CURVE = [(1_000, 6.0), (10_000, 4.0), (100_000, 3.5)]


def planted(**changed: Any) -> Reference:
    points = [Point(step, tokens, "planted", loss) for step, (tokens, loss) in enumerate(CURVE)]
    made = {"title": "planted", "model": "tiny", "corpora": [], "validation": "", "source": "planted"}
    return Reference(**{**made, "tolerance": 0.02, "points": points, **changed})


def figures(node: Any, where: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (place, value, the mapping it stands in) of every figure in a file."""
    if isinstance(node, dict):
        for key, value in node.items():
            if isinstance(value, int | float):
                yield f"{where}.{key}", value, node
            yield from figures(value, f"{where}.{key}")
    elif isinstance(node, list):
        for number, item in enumerate(node):
            yield from figures(item, f"{where}[{number}]")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_figure_stands_beside_its_source(path: Path):
    content = OmegaConf.to_container(OmegaConf.load(path))
    bare = [place for place, _, holder in figures(content) if not str(holder.get("source", "")).strip()]
    assert bare == []
    assert "tolerance: " in path.read_text()
    reason = next(line for line in path.read_text().splitlines() if line.startswith("tolerance: "))
    assert "#" in reason, "how finely runs can be told apart is our own judgement: say why"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_reference_parses_and_names_what_there_is(path: Path):
    reference = named(path.stem)
    assert (DIRECTORY / "model" / f"{reference.model}.yaml").is_file()
    assert reference.corpora
    for corpus in reference.corpora:
        assert (DIRECTORY / "corpus" / f"{corpus}.yaml").is_file()
    assert all(2 < each.val_loss < 12 for each in reference.points)
    settings = compose("train", [])
    for each in reference.recipe:
        assert OmegaConf.select(settings, each.setting, throw_on_missing=False) is not None or (
            each.setting == "steps"
        ), each.setting


EXPERIMENTS = sorted((DIRECTORY / "experiment").glob("*.yaml"))
COMPARED = [path for path in EXPERIMENTS if "reference:" in path.read_text()]


@pytest.mark.parametrize("path", COMPARED, ids=lambda path: path.stem)
def test_a_recipe_reads_the_corpus_that_its_reference_was_trained_on(path: Path):
    composed = compose("train", [f"experiment={path.stem}"])
    (corpus,) = re.findall(r"data_prep\.prepare corpus=(\w+)", path.read_text()) or ["stdlib"]
    assert named(composed.reference).corpora[0] == corpus


def test_a_corpus_is_another_one_if_it_has_a_name_and_none_of_the_references():
    reference = planted(corpora=["fineweb_100bt", "fineweb_10bt"])
    assert other_corpora(reference, ["fineweb_10bt", None]) == []
    assert other_corpora(reference, ["fineweb_10bt", "stdlib", None, "news"]) == ["stdlib", "news"]


def test_without_its_losses_a_reference_judges_nothing_but_a_run_by_itself():
    level = Level("weights", "a paper", val_loss=3.4, hellaswag=0.3)
    bare = without_losses(planted(levels=[level], recipe=[RecipeSetting("steps", 1, "a paper")]))
    assert distance(bare, 10_000, 4.25) == {}
    assert standing(bare, [(10_000, 4.0)]).verdict == UNKNOWN
    assert standing(bare, [(1_000, 6.0), (10_000, math.nan)]).verdict == DIVERGED
    assert (bare.levels, len(bare.recipe)) == ([dataclasses.replace(level, val_loss=None)], 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_points_tokens_are_its_steps_times_the_batch(path: Path):
    reference = named(path.stem)
    sizes = {point.tokens / point.step for point in reference.points if point.step}
    assert len(sizes) <= 1
    batch = [each.value for each in reference.recipe if each.setting == "batch.tokens"]
    assert not sizes or not batch or sizes == set(batch)


def test_a_figure_without_a_source_is_refused():
    with pytest.raises(ValueError, match="has no source"):
        planted(points=[Point(1, 10, " ", 3.0)])


def test_an_unknown_reference_names_the_choices():
    with pytest.raises(ConfigError, match=r"choose one of: .*gpt2_124m_fineweb"):
        named("gpt2_125m")


def test_a_run_takes_a_reference_from_the_command_line():
    """Hydra would take the name of a folder of conf/ for a group, and refuse the setting."""
    assert compose("train", ["reference=gpt2_124m_fineweb"]).reference == "gpt2_124m_fineweb"
    assert compose("report", ["reference=demo"]).reference == "demo"


def test_llm_c_ends_at_the_loss_that_its_log_ends_with():
    assert named("gpt2_124m_fineweb").curve[-1] == (19_560 * 524_288, 3.2722)
    assert named("gpt2_355m_fineweb").curve[-1] == (60_000 * 524_288, 2.9282)


@given(st.floats(1_000, 100_000))
def test_between_points_the_loss_is_linear_in_the_logarithm_of_the_tokens(tokens: float):
    tokens_known, losses_known = zip(*CURVE, strict=True)
    expected = np.interp(math.log(tokens), np.log(tokens_known), losses_known)
    assert loss_at(CURVE, tokens) == pytest.approx(float(expected), abs=1e-9)


@given(st.floats(3.5, 5.999))
def test_the_tokens_of_a_loss_are_where_the_curve_has_that_loss(loss: float):
    tokens = tokens_at(CURVE, loss)
    assert tokens is not None
    assert loss_at(CURVE, min(tokens, 100_000)) == pytest.approx(loss, abs=1e-9)


def test_outside_its_points_a_curve_says_nothing():
    assert loss_at(CURVE, 999) is None
    assert loss_at(CURVE, 100_001) is None
    assert loss_at([], 1) is None
    assert tokens_at(CURVE, 3.4) is None
    assert tokens_at(CURVE, 7.0) is None


def test_a_curve_from_the_first_step_on_is_linear_up_to_its_second_point():
    curve = [(0, 10.0), (100, 8.0)]
    assert loss_at(curve, 0) == 10.0
    assert loss_at(curve, 25) == pytest.approx(9.5)
    assert tokens_at(curve, 9.0) == pytest.approx(50)


def test_the_metric_is_the_runs_loss_less_the_references():
    assert distance(planted(), 10_000, 4.25) == {"val/loss_behind": 0.25}
    assert distance(planted(), 10, 9.0) == {}
    assert distance(None, 10_000, 4.25) == {}


def test_the_tolerance_is_wide_where_the_curve_is_steep():
    reference = planted()
    early, late = tolerance_at(reference, 2_000), tolerance_at(reference, 100_000)
    assert early is not None
    assert late is not None
    assert early > 0.09  # a tenth of the tokens more or less, at 2 nats a decade
    assert late == pytest.approx(0.5 * -math.log10(0.9))
    assert tolerance_at(planted(tolerance=0.5), 100_000) == 0.5


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ([(10_000, 4.0)], ON_TRACK),
        ([(10_000, 4.05)], ON_TRACK),
        ([(10_000, 4.3)], BEHIND),
        ([(10_000, 3.7)], AHEAD),
        ([(1_000, 6.0), (2_000, 4.5), (10_000, 5.1)], DIVERGED),
        ([(1_000, 6.0), (10_000, math.nan)], DIVERGED),
        ([(10, 9.0)], UNKNOWN),
        ([(1_000_000, 3.5)], ON_TRACK),  # past the end: beside the end
    ],
)
def test_a_run_stands_where_a_reader_would_say(losses: list[tuple[int, float]], verdict: str):
    assert standing(planted(), losses).verdict == verdict


def test_a_run_behind_is_told_by_how_many_nats_and_tokens():
    found = standing(planted(), [(100_000, 4.0)])
    assert found.behind == pytest.approx(0.5)
    assert found.tokens_behind == pytest.approx(90_000)
