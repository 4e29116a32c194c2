import pytest

from conf.exits import ConfigError
from data_prep.counts import Drop
from data_prep.filters import FilterConfig, reason_to_drop


@pytest.mark.parametrize(
    ("length", "reason"),
    [(0, Drop.EMPTY), (1, Drop.TOO_SHORT), (2, Drop.TOO_SHORT), (3, None), (5, None), (6, Drop.TOO_LONG)],
)
def test_the_bounds_belong_to_what_is_kept(length: int, reason: Drop | None):
    assert reason_to_drop(b"x" * length, FilterConfig(min_bytes=3, max_bytes=5)) == reason


@pytest.mark.parametrize(("least", "most"), [(0, 5), (6, 5), (-1, -1)])
def test_bounds_that_leave_nothing_are_refused(least: int, most: int):
    with pytest.raises(ConfigError, match=r"filters\.min_bytes"):
        FilterConfig(min_bytes=least, max_bytes=most)
