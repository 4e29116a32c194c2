"""Several values of a setting are every combination of them."""

import pytest

from conf.combinations import combinations
from conf.exits import ConfigError


def test_every_value_meets_every_other_and_the_last_varies_fastest():
    fixed, each = combinations(["steps=9", "schedule.peak=1e-3,3e-4", "zero=stage1,stage2"])
    assert fixed == ["steps=9"]
    assert each == [
        ("schedule.peak=0.001", "zero=stage1"),
        ("schedule.peak=0.001", "zero=stage2"),
        ("schedule.peak=0.0003", "zero=stage1"),
        ("schedule.peak=0.0003", "zero=stage2"),
    ]


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("seed=range(1,4)", ["seed=1", "seed=2", "seed=3"]),
        ("seed=range(1)", ["seed=0"]),
        ("optim.betas=[0.9,0.95],[0.9,0.99]", ["optim.betas=[0.9,0.95]", "optim.betas=[0.9,0.99]"]),
        ("data.index='/a b/c','/d,e'", ["data.index='/a b/c'", "data.index='/d,e'"]),
        ("+x.y=1,2", ["+x.y=1", "+x.y=2"]),
    ],
)
def test_values_are_read_as_hydra_reads_them(override, values):
    assert combinations([override]) == ([], [(value,) for value in values])


def test_without_several_values_there_is_one_combination():
    assert combinations(["data.index='/a,b'", "list=[1,2]"]) == (["data.index='/a,b'", "list=[1,2]"], [()])


@pytest.mark.parametrize("override", ["model=glob(*)", "seed=interval(0,1)", "seed=1,,2", "seed"])
def test_what_cannot_be_counted_is_refused_in_one_line(override):
    with pytest.raises(ConfigError, match="write key=A,B,C") as caught:
        combinations([override])
    assert "\n" not in str(caught.value)
