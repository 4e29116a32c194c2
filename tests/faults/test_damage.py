import pytest

from faults import cases, mutations


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.__name__)
def test_a_case_that_the_sweeps_do_not_reach(case, tmp_path):
    assert case(tmp_path) is None


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_damage_is_silent(count):
    seen, wrong = mutations.mutate(count, seed=1)
    assert wrong == []
    assert sum(seen.values()) >= count
