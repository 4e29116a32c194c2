import multiprocessing
from pathlib import Path

import pytest

from data_prep.publish import publish, publish_once, replacing


def test_a_file_is_replaced_whole_and_no_temporary_stays(tmp_path: Path):
    path = tmp_path / "file"
    publish(path, b"old")
    publish(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    publish(path, b"old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"ne")
            raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_of_many_writers_wins_and_all_learn_what_it_wrote(tmp_path: Path):
    path = tmp_path / "plan"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        answers = pool.starmap(publish_once, [(path, b"%d" % number) for number in range(40)])
    assert set(answers) == {path.read_bytes()}
    assert list(tmp_path.iterdir()) == [path]
