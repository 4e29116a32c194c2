import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_prep.spill
from conf.exits import CorruptError
from data_prep.counts import Counts
from data_prep.routing import TextHash
from data_prep.spill import Spill, documents_per_bucket, is_whole, read_marker, read_section, spill_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    counts = Counts()
    with Spill(4, tmp_path) as spill:
        for bucket, number in ((2, 1), (0, 2), (2, 3), (0, 0)):
            tokens = np.full(number, number, np.uint16)
            spill.add(bucket, TextHash(2**64 - number - 1, number), 10 * number, tokens)
            counts.keep(10 * number, number)
        spill.write(7, plan="plan", counts=counts)
    return tmp_path


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=30), st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_what_went_to_disk_in_between_changes_no_byte(
    tmp_path_factory: pytest.TempPathFactory, documents: list[tuple[int, int]], held_bytes: int
):
    contents = []
    for bound in (1 << 26, held_bytes):
        folder = tmp_path_factory.mktemp("spill")
        with pytest.MonkeyPatch.context() as patch, Spill(4, folder) as spill:
            patch.setattr(data_prep.spill, "_HELD_BYTES", bound)
            for number, (bucket, length) in enumerate(documents):
                tokens = np.arange(number, number + length, dtype=np.uint16)
                spill.add(bucket, TextHash(number, number), length, tokens)
            spill.write(3, plan="plan", counts=Counts())
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


def test_a_unit_of_any_size_takes_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data_prep.spill, "_HELD_BYTES", 1 << 21)
    document = np.arange(1 << 15, dtype=np.uint16)
    tracemalloc.start()
    with Spill(2, tmp_path) as spill:
        for number in range(600):
            spill.add(number % 2, TextHash(number, number), 100, document)
        marker = spill.write(0, plan="plan", counts=Counts())
        assert is_whole(tmp_path, 0, marker, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert marker.bytes > 600 * document.nbytes > 8 * peak


def test_a_bucket_is_read_as_it_was_written(folder: Path):
    section = read_section(folder, 7, 2, plan="plan")
    assert section.records["high"].tolist() == [2**64 - 2, 2**64 - 4]
    assert section.records["low"].tolist() == [1, 3]
    assert section.records["text_bytes"].tolist() == [10, 30]
    assert section.tokens.tolist() == [1, 3, 3, 3]
    assert read_section(folder, 7, 0, plan="plan").records["tokens"].tolist() == [2, 0]
    assert len(read_section(folder, 7, 1, plan="plan").records) == 0
    assert documents_per_bucket(folder, 7, 4).tolist() == [2, 0, 2, 0]


def test_the_marker_knows_whether_the_file_is_whole(folder: Path):
    marker = read_marker(folder, 7, "plan")
    assert marker is not None
    assert (marker.counts.kept, marker.counts.tokens) == (4, 6)
    assert is_whole(folder, 7, marker, 4)
    spill_path(folder, 7).write_bytes(spill_path(folder, 7).read_bytes()[:-1] + b"?")
    assert not is_whole(folder, 7, marker, 4)


def test_any_flipped_bit_makes_a_unit_unfinished(folder: Path):
    path, marker = spill_path(folder, 7), read_marker(folder, 7, "plan")
    assert marker is not None
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        assert not is_whole(folder, 7, marker, 4), at


def test_the_marker_of_another_plan_counts_as_none(folder: Path):
    assert read_marker(folder, 7, "other plan") is None
    assert read_marker(folder, 8, "plan") is None


def test_a_section_of_another_unit_or_plan_is_refused(folder: Path):
    spill_path(folder, 7).rename(spill_path(folder, 8))
    with pytest.raises(CorruptError, match="unit-000008"):
        read_section(folder, 8, 2, plan="plan")
    spill_path(folder, 8).rename(spill_path(folder, 7))
    with pytest.raises(CorruptError, match="unit-000007"):
        read_section(folder, 7, 2, plan="other plan")


def test_every_flipped_bit_and_every_truncation_is_refused(folder: Path):
    path = spill_path(folder, 7)
    whole = path.read_bytes()

    def refused(content: bytes) -> bool:
        path.write_bytes(content)
        try:
            for bucket in range(4):
                read_section(folder, 7, bucket, plan="plan")
        except CorruptError:
            return True
        return False

    assert not refused(whole)
    assert all(refused(whole[:at]) for at in range(len(whole)))
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        assert refused(bytes(flipped)), bit
