import io
import json
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from conf.exits import CorruptError, DatasetError
from data_prep.index import read_index
from data_prep.shards import Shard
from pretrain.batch import BatchPlan
from pretrain.stream.blocks import LocalBlocks
from pretrain.stream.data import Batch, Batches
from pretrain.stream.mixing import Mixture
from pretrain.stream.sequences import Sequences
from pretrain.stream.sources import DataConfig, opened_sources, training_data

T = 64
SEQUENCES = 16
CPU = torch.device("cpu")


def data(index: Path, share: int = SEQUENCES) -> tuple[Sequences, Mixture]:
    config = DataConfig(index=str(index), sequence_tokens=T)
    sources = opened_sources(config)
    (sequences,), mixture = training_data(sources, config, batch_sequences=SEQUENCES, seed=7, share=share)
    return sequences, mixture


def batches(index: Path, *, ranks: int = 1, rank: int = 0, micro: int = 4, first_step: int = 0) -> Batches:
    sequences, mixture = data(index, SEQUENCES // ranks)
    plan = BatchPlan(SEQUENCES, ranks, SEQUENCES // ranks // micro, micro)
    first = first_step * SEQUENCES
    return Batches([sequences], mixture, plan=plan, rank=rank, first_sequence=first, prefetch=2, device=CPU)


def taken(source: Batches, steps: int) -> list[Batch]:
    found = [next(source) for _ in range(steps)]
    source.close()
    return found


def whole(batch: Batch) -> np.ndarray:
    """Return a rank's share of a step, (sequences, T + 1)."""
    return torch.cat(batch.micro_batches).numpy()


def blocks_by_numpy(index: Path) -> list[np.ndarray]:
    """Return every training block with its overlap token, read as a tar of arrays."""
    found = []
    for shard in json.loads(index.read_text())["splits"]["train"]["shards"]:
        with tarfile.open(index.parent / shard["name"]) as tar:
            names = [name for name in tar.getnames() if name.endswith(".npy")]
            found += [np.load(io.BytesIO(tar.extractfile(name).read())) for name in names]
    return found


def test_batches_are_the_orders_rows_of_the_blocks(tiny_index: Path):
    blocks = blocks_by_numpy(tiny_index)
    sequences, order = data(tiny_index)
    steps = 2 * len(sequences) // SEQUENCES
    for step, batch in enumerate(taken(batches(tiny_index), steps)):
        for within, sequence in enumerate(whole(batch)):
            place = order.place(step * SEQUENCES + within)
            expected = blocks[place.block][place.row * T : (place.row + 1) * T + 1]
            assert np.array_equal(sequence, expected), (step, within, place)
        assert batch.epoch == order.place(step * SEQUENCES).epoch
        assert [tuple(micro.shape) for micro in batch.micro_batches] == [(4, T + 1)] * 4
        assert all(micro.dtype == torch.int64 for micro in batch.micro_batches)


def test_the_last_target_of_a_sequence_is_the_first_token_of_the_next(tiny_index: Path):
    index = read_index(tiny_index)
    sequences = Sequences(index, "train", T, cached_blocks=4)
    for row in range(15):
        assert sequences.row(0, row)[-1] == sequences.row(0, row + 1)[0]
    assert sequences.row(0, 15)[-1] == sequences.row(1, 0)[0], "across blocks too: the overlap token"


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_batch_is_the_same_on_any_number_of_ranks(tiny_index: Path, ranks: int):
    alone = taken(batches(tiny_index), 6)
    together = [taken(batches(tiny_index, ranks=ranks, rank=rank, micro=2), 6) for rank in range(ranks)]
    for step in range(6):
        shares = [whole(together[rank][step]) for rank in range(ranks)]
        assert np.array_equal(np.concatenate(shares), whole(alone[step]))


def test_a_run_that_resumes_at_a_step_reads_what_it_would_have_read(tiny_index: Path):
    through = taken(batches(tiny_index), 40)
    for first in (1, 17, 39):
        again = taken(batches(tiny_index, first_step=first), 1)
        assert np.array_equal(whole(again[0]), whole(through[first]))


def test_what_was_fetched_ahead_and_never_asked_for_is_not_lost(tiny_index: Path):
    source = batches(tiny_index)
    next(source)
    source.close()
    again = taken(batches(tiny_index, first_step=1), 1)
    assert np.array_equal(whole(again[0]), whole(taken(batches(tiny_index), 2)[1]))


def damaged(index: Path, folder: Path) -> tuple[Path, str]:
    """Return a copy of a data set with one token of one block changed, and the name of that shard."""
    shutil.copytree(index.parent, folder)
    shard = read_index(index).splits["train"].shards[1]
    with (folder / shard.name).open("r+b") as file:
        file.seek(shard.block(2).offset + 10)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return folder / "index.json", shard.name


def test_a_damaged_block_ends_the_run_in_its_own_thread_and_names_shard_and_member(
    tiny_index: Path, tmp_path: Path
):
    index, shard = damaged(tiny_index, tmp_path / "data")
    source = batches(index)
    with pytest.raises(CorruptError, match=rf"{shard}: member 000000002\.npy at offset \d+"):
        taken(source, 100)
    source.close()


def test_a_missing_shard_is_named(tiny_index: Path, tmp_path: Path):
    shutil.copytree(tiny_index.parent, tmp_path / "data")
    (tmp_path / "data" / "train-00000.tar").unlink()
    source = batches(tmp_path / "data" / "index.json")
    with pytest.raises(DatasetError, match=r"train-00000\.tar is missing"):
        taken(source, 100)
    source.close()


def test_closing_ends_the_thread_even_while_its_queue_is_full(tiny_index: Path):
    before = threading.active_count()
    for asked in (0, 1, 3):
        source = batches(tiny_index)
        for _ in range(asked):
            next(source)
        source.close()
        assert threading.active_count() == before


def test_the_waiting_time_is_told(tiny_index: Path):
    assert all(batch.wait_seconds >= 0 for batch in taken(batches(tiny_index), 3))


def test_few_blocks_are_kept_in_memory(tiny_index: Path):
    sequences = Sequences(read_index(tiny_index), "train", T, cached_blocks=3)
    for block in range(20):
        sequences.row(block, 0)
    assert sequences.cached_blocks == 3
    assert sequences.row(5, 1).dtype == np.uint16


def test_a_block_in_use_is_not_read_again(tiny_index: Path, monkeypatch: pytest.MonkeyPatch):
    """One block in memory for each lane is enough."""
    reads: list[int] = []
    original = LocalBlocks.read

    def counted(self: LocalBlocks, shard: Shard, number: int, into: np.ndarray) -> None:
        reads.append(number)
        original(self, shard, number, into)

    monkeypatch.setattr(LocalBlocks, "read", counted)
    index = read_index(tiny_index)
    source = batches(tiny_index)
    blocks = sum(shard.block_count for shard in index.splits["train"].shards)
    taken(source, sum(shard.tokens for shard in index.splits["train"].shards) // T // SEQUENCES)
    assert len(reads) <= blocks + SEQUENCES, "the lanes may have entered blocks of the next epoch"


@pytest.mark.parametrize(("length", "says"), [(1000, "does not divide"), (2048, "does not divide")])
def test_a_length_that_does_not_divide_the_blocks_is_refused(tiny_index: Path, length: int, says: str):
    with pytest.raises(DatasetError, match=says):
        Sequences(read_index(tiny_index), "train", length, cached_blocks=1)


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tiny_index: Path):
    with pytest.raises(DatasetError, match="has no split 'test'; it has train, validation"):
        Sequences(read_index(tiny_index), "test", T, cached_blocks=1)


@pytest.mark.parametrize("name", ["sequence_tokens", "prefetch_batches", "lanes"])
def test_a_size_of_zero_is_refused(name: str):
    with pytest.raises(ValueError, match=rf"data\.{name} must be at least 1"):
        DataConfig(**{name: 0})
