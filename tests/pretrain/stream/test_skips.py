"""Damaged blocks are skipped on demand: exactly their sequences, and no more than was allowed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_data import T, made, opened

from conf.exits import CorruptError
from data_prep.index import read_index
from pretrain.batch import BatchPlan
from pretrain.cross_entropy import IGNORED
from pretrain.distributed import World
from pretrain.stream import ledger
from pretrain.stream.data import Batch, Batches
from pretrain.stream.ledger import Entry, Ledger
from pretrain.stream.skips import Skips
from pretrain.stream.sources import DataConfig

BATCH, STEPS = 12, 30


def read(data: DataConfig) -> list[Batch]:
    sources, mixture = opened(data, BATCH)
    plan = BatchPlan(BATCH, 1, 3, 4)
    source = Batches(
        sources, mixture, plan=plan, rank=0, first_sequence=0, prefetch=2, device=torch.device("cpu")
    )
    try:
        return [next(source) for _ in range(STEPS)]
    finally:
        source.close()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[DataConfig, DataConfig]:
    """Return a data set, and a copy of it with one damaged block, for readers that skip."""
    index = made(tmp_path / "data", [[64] * 60, [64] * 20])
    shutil.copytree(index.parent, tmp_path / "damaged")
    offset = read_index(index).splits["train"].shards[1].block(3).offset
    with (tmp_path / "damaged" / "train-00001.tar").open("r+b") as file:
        file.seek(offset + 8)
        file.write(b"\xff\xff")
    whole = DataConfig(index=str(index), sequence_tokens=T)
    return whole, replace(whole, index=str(tmp_path / "damaged"), skip_sequences=8)


def test_the_sequences_of_a_damaged_block_are_ignored_and_all_others_are_what_they_were(
    pair: tuple[DataConfig, DataConfig],
):
    whole, damaged = pair
    (_,), mixture = opened(whole, BATCH)
    skipped = []
    for step, (good, bad) in enumerate(zip(read(whole), read(damaged), strict=True)):
        expected, found = (torch.cat(batch.micro_batches).numpy() for batch in (good, bad))
        for row in range(BATCH):
            number = step * BATCH + row
            if mixture.place(number).block == 63:
                assert (found[row] == IGNORED).all()
                skipped.append(number)
            else:
                assert np.array_equal(found[row], expected[row])
        assert [skip.sequence for skip in bad.skips] == [n for n in skipped if n >= step * BATCH]
        assert all("train-00001.tar: member 000000003.npy" in skip.reason for skip in bad.skips)
        assert bad.places == good.places, "the places are the same, whatever lies there"
    assert len(skipped) == 4, "the block's four sequences, of the first epoch"


def test_all_ranks_agree_on_what_was_skipped_and_the_ledger_names_it(
    pair: tuple[DataConfig, DataConfig], world: World, tmp_path: Path
):
    book = Ledger(tmp_path, 0, Skips(8))
    for step, batch in enumerate(read(pair[1])):
        book.write(Entry(step + 1, step * BATCH, BATCH, BATCH, batch.places), batch.skips)
        if book.pending:
            book.agree(world)
    book.seal(world)
    book.close()
    assert len(ledger.skipped(tmp_path)) == 4
    assert len(ledger.read(tmp_path)) == STEPS, "other lines do not disturb who reads the steps alone"


def test_more_than_the_budget_ends_the_run_on_every_rank(pair: tuple[DataConfig, DataConfig], world: World):
    skips = Skips(3)
    for batch in read(pair[1]):
        skips.add(batch.skips)
    with pytest.raises(CorruptError, match=r"4 sequences .*skip_sequences allows 3: .*train-00001\.tar"):
        skips.agree(world)


def test_what_earlier_attempts_skipped_counts_once(pair: tuple[DataConfig, DataConfig], world: World):
    found = [skip for batch in read(pair[1]) for skip in batch.skips]
    again = Skips(4, known=[skip.sequence for skip in found])
    again.add(found)
    again.agree(world)
    assert len(again.sequences) == 4


def test_without_a_budget_the_first_damaged_block_ends_the_run(pair: tuple[DataConfig, DataConfig]):
    with pytest.raises(CorruptError, match=r"train-00001\.tar: member 000000003\.npy at offset \d+"):
        read(replace(pair[1], skip_sequences=0))
