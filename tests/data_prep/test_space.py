from pathlib import Path

import pytest

from conf.exits import Exit
from data_prep.space import NoSpaceError, predicted_bytes, require_space


def test_work_that_the_disk_cannot_hold_is_refused_before_it_starts(tmp_path: Path):
    assert require_space(tmp_path, 1, "the shards") > 1
    with pytest.raises(NoSpaceError, match=r"the shards need about 1000000\.0 GB") as caught:
        require_space(tmp_path, 10**15, "the shards")
    assert caught.value.code == Exit.DISK


def test_the_prediction_covers_prose():
    assert predicted_bytes(4_000_000) >= 2 * 1_000_000
