"""What is quoted is read back as it was, by Hydra's own reading of a command line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf import compose
from conf.exits import ConfigError
from conf.quoting import quoted, value_of


@given(text=st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="{"), min_size=1))
@settings(max_examples=200)
def test_any_text_that_is_quoted_is_read_back(text: str):
    if not text.strip():  # as good as empty, which is refused
        text = f"a{text}"
    assert value_of("run_dir", ["steps=3", f"run_dir={quoted(text)}"]) == text


@pytest.mark.parametrize("text", ["it's", 'a "b"', "a = b, $c [d] (e)", "\\", "a\\b", "\\'", "  a  ", "#:~"])
def test_what_is_quoted_is_what_every_command_reads(text: str):
    assert compose("train", [f"run_dir={quoted(text)}"]).run_dir == text


@pytest.mark.parametrize(
    ("override", "value"),
    [("run_dir=/a b/c", "/a b/c"), ('run_dir="it\'s"', "it's"), ("+run_dir=7", "7"), ("steps=3", None)],
)
def test_the_last_override_of_a_key_counts(override: str, value: str | None):
    assert value_of("run_dir", [override]) == value
    assert value_of("run_dir", [override, "run_dir=last"]) == "last"


def test_what_hydra_cannot_read_is_told_in_one_line():
    with pytest.raises(ConfigError, match="cannot read run_dir=it's; quote the value for Hydra") as caught:
        value_of("run_dir", ["run_dir=it's"])
    assert "\n" not in str(caught.value)
