"""What batch k contains depends on nothing but the seed, the data and the lanes."""

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from made_data import CPU, T, made, opened, run

from data_prep.index import Index, parse_index, read_index
from data_prep.shards import Shard
from pretrain.batch import BatchPlan, BatchSizes
from pretrain.stream.blocks import Blocks
from pretrain.stream.data import Batches
from pretrain.stream.mixing import MixtureWalk
from pretrain.stream.sources import DataConfig, MixSource


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("mixed")
    one = made(folder / "one", [[64] * 40 + [40], [64] * 30], seed=0)
    other = made(folder / "other", [[64] * 9 + [17], [64, 20]], seed=17_000)
    mix = [MixSource(str(one), 3.0, name="one"), MixSource(str(other), 1.0, name="other")]
    return DataConfig(mix=mix, sequence_tokens=T)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    index = made(tmp_path_factory.mktemp("plain") / "data", [[64] * 200 + [40], [64] * 90 + [33]])
    return DataConfig(index=str(index), sequence_tokens=T)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "cuts"),
    [
        (
            "plain",
            [(1, 1), (1, 2), (1, 3), (2, 2), (4, 1), (4, 2), (4, 3), (8, 3), (16, 1), (32, 3), (32, 1)],
        ),
        ("mixed", [(1, 3), (8, 2), (32, 3)]),
    ],
)
def test_batches_0_to_200_are_equal_for_any_ranks_and_micro_batches(
    kind: str, cuts: list[tuple[int, int]], request: pytest.FixtureRequest
):
    data, batch, steps = request.getfixturevalue(kind), 96, 201
    whole, _ = run(data, batch, ranks=1, rank=0, micro=96, steps=steps)
    for ranks, micro in cuts:
        told = [run(data, batch, ranks=ranks, rank=rank, micro=micro, steps=steps) for rank in range(ranks)]
        for step in range(steps):
            shares = np.concatenate([shares[step] for shares, _ in told])
            assert np.array_equal(shares, whole[step]), (ranks, micro, step)
        # Each rank opens the blocks of its own lanes, each once while a lane is in it: no more than what is
        # consumed, but for what the threads had read ahead.
        read = [count for _, count in told]
        consumed = steps * batch // ranks * T * 2
        assert sum(read) <= 1.1 * consumed * ranks, (ranks, micro)
        assert max(read) <= 1.2 * consumed, (ranks, micro)


@pytest.mark.parametrize("kind", ["plain", "mixed"])
def test_a_jump_to_any_step_reads_the_batches_that_walking_there_does(
    kind: str, request: pytest.FixtureRequest
):
    data, batch, steps = request.getfixturevalue(kind), 24, 120
    walked, _ = run(data, batch, ranks=1, rank=0, micro=8, steps=steps)
    for step in [0, 1, *random.Random(0).sample(range(3, steps - 3), 6), steps - 3]:
        jumped, _ = run(data, batch, ranks=1, rank=0, micro=8, steps=3, first=step)
        assert all(np.array_equal(a, b) for a, b in zip(jumped, walked[step : step + 3], strict=True)), step
    sources, mixture = opened(data, batch)
    many = random.Random(1)
    places = {step: mixture.place(step * batch) for step in range(0, 10**5, 9970)}
    walk = MixtureWalk(mixture)
    for step in many.sample(sorted(places), 10):  # forwards and backwards, in one order
        assert tuple(walk.places(step * batch, 1)[0].tolist()) == places[step]
    assert opened(data, batch)[1].place(99_700 * batch) == places[99_700]
    assert len(sources) == len(data.indices)


def test_a_batch_of_another_size_goes_on_where_the_old_one_ended(plain: DataConfig):
    from dataclasses import replace

    fixed = replace(plain, lanes=24)
    straight, _ = run(fixed, 24, ranks=1, rank=0, micro=8, steps=30)
    stream = np.concatenate(straight)
    for size, ranks in ((48, 2), (12, 4), (36, 3), (8, 1)):
        sources, mixture = opened(fixed, size)
        parts = []
        for rank in range(ranks):
            plan = BatchPlan(size, ranks, 1, size // ranks)
            source = Batches(
                sources, mixture, plan=plan, rank=rank, first_sequence=24 * 10, prefetch=1, device=CPU
            )
            parts.append([torch.cat(next(source).micro_batches).numpy() for _ in range(5)])
            source.close()
        told = np.concatenate([np.concatenate(step) for step in zip(*parts, strict=True)])
        assert np.array_equal(told, stream[240 : 240 + 5 * size]), size


def test_a_growing_batch_takes_the_same_sequences_one_after_another(plain: DataConfig):
    straight, _ = run(plain, 24, ranks=1, rank=0, micro=8, steps=20)
    stream = np.concatenate(straight)
    sizes = BatchSizes(24, 4, 100)
    starts = [0]
    for _ in range(16):
        starts.append(starts[-1] + sizes.at(starts[-1]))
    assert len({b - a for a, b in pairwise(starts)}) == 6, "all sizes come"
    for ranks in (1, 2, 4):
        plan = BatchPlan(24, ranks, 24 // ranks, 1, 4, 100)
        parts = []
        for rank in range(ranks):
            sources, mixture = opened(plain, 24)
            ahead = Eager(sources[0].blocks)
            sources[0].blocks = ahead
            source = Batches(sources, mixture, plan=plan, rank=rank, first_sequence=0, prefetch=2, device=CPU)
            parts.append([torch.cat(next(source).micro_batches).numpy() for _ in range(16)])
            source.close()
            assert ahead.unexpected == [], "each block is asked for before it is read"
        for step, (begin, end) in enumerate(pairwise(starts)):
            told = np.concatenate([shares[step] for shares in parts])
            assert np.array_equal(told, stream[begin:end]), (ranks, step)


class Eager:
    """Blocks that come from afar, as far as the reader knows."""

    looks_ahead = True

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._expected: set[tuple[str, int]] = set()
        self.unexpected: list[tuple[str, int]] = []

    def expect(self, wanted: Sequence[tuple[Shard, int]]) -> None:
        self._expected |= {(shard.name, number) for shard, number in wanted}

    def read(self, shard: Shard, number: int, into: np.ndarray) -> None:
        if (shard.name, number) not in self._expected:
            self.unexpected.append((shard.name, number))
        self._blocks.read(shard, number, into)

    def close(self) -> None:
        self._blocks.close()


def hostile(chance: random.Random) -> tuple[list[list[int]], int, int, int]:
    """Return blocks of shards, ranks, the share of each in a batch, and lanes: often absurd ones."""
    kind = chance.randrange(5)
    shards = chance.randint(1, 4)
    sizes = [[64] * chance.randint(0, 6) + [chance.randint(1, 64)] for _ in range(shards)]
    if kind == 0:
        sizes = [[chance.randint(T, 64)]]  # one block
    elif kind == 1:
        sizes = [[64] * chance.randint(0, 2) + [chance.randint(T, 64)]]  # one shard, fewer blocks than lanes
    elif kind == 2:
        sizes = [[chance.randint(1, T - 1)], [64]]  # a shard that holds no whole sequence
    ranks = chance.choice([1, 2, 3, 5, 8, 8, 16])
    share = chance.randint(1, 4)
    lanes = chance.choice([ranks * share, 1, 2 * ranks * share, chance.randint(1, 50)])
    return sizes, ranks, share, lanes


def check_hostile(folder: Path, seed: int) -> None:
    """Read two epochs on every rank, by threads; hold against what NumPy says is on the disk."""
    shards, ranks, share, lanes = hostile(random.Random(seed))
    if not any(size >= T for sizes in shards for size in sizes):
        shards.append([64])
    index = made(folder, shards)
    data = DataConfig(index=str(index), sequence_tokens=T, lanes=lanes)
    batch = ranks * share
    (sequences,), mixture = opened(data, batch)
    rows = [(block, row) for block, count in enumerate(sequences.rows_per_block) for row in range(count)]
    steps = -(-(2 * len(rows) + lanes * 4) // batch)
    told = [run(data, batch, ranks=ranks, rank=rank, micro=share, steps=steps)[0] for rank in range(ranks)]
    assert {len(each) for each in told} == {steps}, "equal steps on all ranks"
    stream = np.concatenate([np.concatenate([each[step] for each in told]) for step in range(steps)])
    content = {place: tuple(sequences.row(*place).tolist()) for place in rows}
    assert len(set(content.values())) == len(rows), "no two sequences of the test are alike"
    seen: dict[int, list[tuple]] = {}
    places = MixtureWalk(mixture).places(0, len(stream)).tolist()
    for number, (tokens, (_, epoch, block, row)) in enumerate(zip(stream.tolist(), places, strict=True)):
        assert tuple(tokens) == content[block, row], (seed, number)
        seen.setdefault(epoch, []).append(tuple(tokens))
    # Lanes enter epochs at different times, so an epoch is whole if a later lane order says it is over.
    unread = mixture.orders[0]
    for epoch, found in seen.items():
        assert len(set(found)) == len(found), (seed, epoch, "a sequence came twice")
        ends = unread._firsts[epoch + 1] if len(unread._firsts) > epoch + 1 else None
        over = ends is not None and all(
            lane + int(end - 1) * lanes < len(stream) for lane, end in enumerate(ends) if end
        )
        if over:
            assert set(found) == set(content.values()), (seed, epoch, "a sequence was left out")


def test_any_ranks_lanes_and_shards_read_every_sequence_once_an_epoch_in_equal_steps(tmp_path: Path):
    for seed in range(25):
        check_hostile(tmp_path / str(seed), seed)


@pytest.mark.soak
def test_five_hundred_combinations_read_every_sequence_once_an_epoch(tmp_path: Path):
    for seed in range(1000, 1500):
        check_hostile(tmp_path / str(seed), seed)
    print("500 combinations of ranks, lanes, shards and batches: every sequence once an epoch")


def test_an_index_is_read_from_its_bytes_as_from_its_file(plain: DataConfig):
    path = Path(plain.indices[0])
    assert parse_index(path.read_bytes(), str(path.parent)) == read_index(path)
    assert isinstance(read_index(path), Index)
