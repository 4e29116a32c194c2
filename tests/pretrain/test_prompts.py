import pytest

from conf.exits import ConfigError
from pretrain.prompts import FORMS, asked


def test_a_prompt_without_a_form_stands_as_it_is():
    assert asked(None, "{text} =\n", []) == "{text} =\n"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("translate", "cheese = fromage\nred = rouge\nbread ="),
        ("summarise", "cheese\nTL;DR: fromage\n\nred\nTL;DR: rouge\n\nbread\nTL;DR:"),
        ("answer", "Q: cheese\nA: fromage\n\nQ: red\nA: rouge\n\nQ: bread\nA:"),
    ],
)
def test_a_form_asks_as_the_paper_does_behind_solved_examples(form: str, expected: str):
    assert asked(form, "bread", ["cheese => fromage", "red=>rouge"]) == expected


@pytest.mark.parametrize("form", FORMS)
def test_braces_in_a_text_mean_nothing(form: str):
    assert "{reply} {text} {0}" in asked(form, "{reply} {text} {0}", [])


def test_an_example_without_its_arrow_is_refused():
    with pytest.raises(ConfigError, match="TEXT => REPLY"):
        asked("answer", "why?", ["because"])
