"""Every rank's measurements, the worst of them, and whose it is."""

import math

import pytest

from pretrain.ranks import Ranks


def test_the_worst_is_named_with_its_rank():
    ranks = Ranks({"waited": [0.1, 0.7, 0.1, 0.3], "temp_c": [math.nan, 60.0, math.nan, 80.0]})
    assert (ranks.largest("waited"), ranks.rank_of_largest("waited")) == (0.7, 1)
    assert ranks.mean("waited") == pytest.approx(0.3)
    assert ranks.smallest("waited") == 0.1
    assert (ranks.largest("temp_c"), ranks.rank_of_largest("temp_c"), ranks.mean("temp_c")) == (80.0, 3, 70.0)


def test_what_no_rank_has_measured_is_not_known():
    ranks = Ranks({"temp_c": [math.nan, math.nan], "loss": [math.nan, 1.0]})
    assert not ranks.known("temp_c")
    assert ranks.known("loss")
