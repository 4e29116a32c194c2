"""Blocks behind a URL: the same batches, whatever the network does; or an error that says what it did."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from made_data import T, made, opened, run
from range_server import RangeServer, now_and_then, served

from conf.exits import ConfigError, CorruptError, DatasetError, RefusedError
from data_prep.index import read_index
from pretrain.stream.mixing import Mixture, MixtureWalk
from pretrain.stream.remote import FetchConfig, Fetcher
from pretrain.stream.sequences import Sequences
from pretrain.stream.sources import DataConfig, MixSource, index_at, opened_sources, order_of
from pretrain.stream.staging import Stage

BATCH, STEPS = 12, 40


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("far") / "data", [[64] * 60, [64] * 20 + [33]]).parent


@pytest.fixture(scope="module")
def expected(data_set: Path) -> list[np.ndarray]:
    return read(str(data_set))[0]


def read(index: str, **fetch: object) -> tuple[list[np.ndarray], int]:
    data = DataConfig(index=index, sequence_tokens=T, fetch=FetchConfig(**fetch))  # pyright: ignore[reportArgumentType]
    return run(data, BATCH, ranks=1, rank=0, micro=4, steps=STEPS)


@pytest.mark.parametrize("fault", ["", "500", "reset", "short", "garbage", "429"])
def test_batches_over_the_network_are_those_of_the_disk(
    fault: str, data_set: Path, expected: list[np.ndarray]
):
    with served(data_set) as server:
        source = f"{server.url}/index.json"
        index_at(source)  # the index itself is asked for once, before the faults begin
        server.fault = lambda number: now(number) if number > 2 else ""
        # Wrong bytes are asked for again once or twice only: they are seldom the network's fault.
        now = now_and_then(0.02 if fault == "garbage" else 0.2, fault)
        found, _ = read(source, deadline_seconds=60)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert server.requests > 80


def without_tables(ranges: list[tuple[str, int, int]], data_set: Path) -> set[tuple[str, int, int]]:
    """Return the ranges that are blocks: whoever reads a shard asks for its table of digests, too, once."""
    assert len(set(ranges)) == len(ranges)
    tables = {(shard.name, shard.table) for shard in read_index(data_set).splits["train"].shards}
    return {each for each in ranges if each[:2] not in tables}


def test_a_rank_asks_for_its_own_blocks_alone_each_once(data_set: Path):
    with served(data_set) as server:
        data = DataConfig(index=server.url, sequence_tokens=T)
        told = []
        for rank in range(2):
            before = len(server.ranges)
            run(data, BATCH, ranks=2, rank=rank, micro=2, steps=20)
            told.append(without_tables(server.ranges[before:], data_set))
    assert not told[0] & told[1], "in the first epoch, a block has one lane, a lane one rank"


def test_of_a_mixture_too_a_rank_fetches_the_bytes_of_its_own_lanes_alone(data_set: Path, tmp_path: Path):
    code = made(tmp_path / "code", [[64] * 60], seed=9).parent
    steps, ranks = 20, 4
    with served(data_set) as one, served(code) as other:
        servers = [one, other]
        mix = [MixSource(one.url, 2, name="web"), MixSource(other.url, 1, name="code")]
        data = DataConfig(mix=mix, sequence_tokens=T)
        sources, mixture = opened(data, BATCH)
        for each in sources:
            each.close()
        told = []
        for rank in range(ranks):
            before = [len(server.ranges) for server in servers]
            run(data, BATCH, ranks=ranks, rank=rank, micro=3, steps=steps)
            ranges = [server.ranges[n:] for server, n in zip(servers, before, strict=True)]
            asked = list(map(without_tables, ranges, [data_set, code]))
            told.append(asked)
            # Beyond what was consumed: three batches ahead, and each lane's next block.
            walk, own, share = MixtureWalk(mixture), set(), BATCH // ranks
            for step in range(steps + 3 + 2 * 4):
                places = walk.places(step * BATCH + rank * share, share)
                own |= {(int(source), int(block)) for source, _, block, _ in places}
            for source, ranges in enumerate(asked):
                mine = [block for of, block in own if of == source]
                assert sum(length for *_, length in ranges) <= 2 * 65 * len(mine), (rank, source)
    for source in range(2):
        every = [each for asked in told for each in asked[source]]
        assert len(set(every)) == len(every), "in the first epoch, a block has one lane, a lane one rank"
    fetched = [sum(length for ranges in asked for *_, length in ranges) for asked in told]
    assert max(fetched) <= 1.5 * sum(fetched) / ranks


def fails(number: int, what: str) -> str:
    return what if number > 1 else ""


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("503", DatasetError, r"could not be read for 1 s: .*503"),
        ("hang", DatasetError, r"could not be read for 1 s: .*Timeout"),
        ("404", DatasetError, r"train-0000\d\.tar is missing, though the index lists it"),
        ("403", DatasetError, r"cannot be read|may not be read"),
        ("whole", DatasetError, r"answers a range with the whole file"),
        ("garbage", CorruptError, r"train-0000\d\.tar: its table of digests at offset \d+ differs"),
    ],
)
def test_a_store_that_does_not_mend_ends_the_run_in_one_line(
    fault: str, error: type[Exception], says: str, data_set: Path
):
    with served(data_set, fault=lambda number: fails(number, fault)) as server:
        began = time.monotonic()
        # Only what may mend is waited for; all else is told at once, however slow the machine is.
        waits = fault in {"503", "hang"}
        with pytest.raises(error, match=says) as caught:
            read(server.url, deadline_seconds=1 if waits else 60, timeout_seconds=0.4 if waits else 30)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - began < 60


def test_a_shard_that_was_cut_off_in_the_store_is_corrupt_not_slow(tmp_path: Path):
    index = made(tmp_path / "data", [[64] * 20])
    shard = index.parent / "train-00000.tar"
    os.truncate(shard, 3000)
    with served(index.parent) as server, pytest.raises(CorruptError, match=r"differs from the index"):
        read(server.url)


@pytest.mark.parametrize(
    "place",
    [
        "pipe:cat data/index.json",
        "pipe://cat index.json",
        "ftp://host/data",
        "simplecache::s3://bucket/data",
        "file:///etc/passwd",
        "https://user:secret@host/data",
    ],
)
def test_a_url_that_would_run_a_program_or_leak_a_password_is_refused(place: str):
    with pytest.raises(RefusedError) as caught:
        index_at(place)
    assert "secret" not in str(caught.value)


def test_an_index_that_is_not_there_says_how_to_make_one(tmp_path: Path):
    with (
        served(tmp_path) as server,
        pytest.raises(DatasetError, match=r"index\.json does not exist; make it"),
    ):
        index_at(server.url)


def test_what_the_user_must_mend_is_not_tried_again():
    fetcher = Fetcher("gopher://host/data", FetchConfig(deadline_seconds=60))
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"cannot open gopher:// paths"):
        fetcher.fetch("train-00000.tar", 0, 10)
    assert fetcher.requests == 1
    assert time.monotonic() - began < 10


def staged(source: RangeServer | Path, folder: Path, gigabytes: float = 1.0) -> DataConfig:
    fetch = FetchConfig(stage_dir=str(folder), stage_gb=gigabytes)
    place = str(source) if isinstance(source, Path) else source.url
    return DataConfig(index=place, sequence_tokens=T, fetch=fetch)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_staged_shards_are_copied_once_for_a_node_and_read_from_its_disk(
    data_set: Path, expected: list[np.ndarray], tmp_path: Path
):
    with served(data_set) as server:
        found, _ = run(staged(server, tmp_path), BATCH, ranks=1, rank=0, micro=4, steps=STEPS)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        (source,) = opened_sources(staged(server, tmp_path))
        stage = Stage(tmp_path, source.index, 10**9)
        fetcher = Fetcher(source.index.location, FetchConfig())
        for shard in source.index.splits["train"].shards:
            assert stage.copy(shard, fetcher.fetch, Event())
            assert stage.path(shard).read_bytes() == (data_set / shard.name).read_bytes()
        asked = server.requests
        for shard in source.index.splits["train"].shards:
            assert stage.copy(shard, fetcher.fetch, Event()), "it is there"
        assert server.requests == asked
        again, _ = run(staged(server, tmp_path), BATCH, ranks=1, rank=0, micro=4, steps=STEPS)
        assert server.requests == asked + 1, "the index alone"
    assert all(np.array_equal(a, b) for a, b in zip(again, expected, strict=True))


def test_shards_of_a_shared_file_system_are_staged_as_those_of_a_server_are(
    data_set: Path, expected: list[np.ndarray], tmp_path: Path
):
    shared, folder = shutil.copytree(data_set, tmp_path / "shared"), tmp_path / "node"
    data = staged(shared, folder)
    shards = opened_sources(data)[0].index.splits["train"].shards
    sources, mixture = opened(data, BATCH)
    try:
        found = rows_of(sources[0], mixture)
        until(lambda: all(list(folder.glob(f"*/{shard.name}")) for shard in shards))
        (shared / "train-00000.tar").unlink()
        assert all(np.array_equal(a, b) for a, b in zip(rows_of(sources[0], mixture), found, strict=True))
    finally:
        for each in sources:
            each.close()
    assert all(np.array_equal(a, b) for a, b in zip(found, np.concatenate(expected), strict=False))
    for shard in shards:
        (there,) = folder.glob(f"*/{shard.name}")
        assert there.read_bytes() == (data_set / shard.name).read_bytes()


def test_asking_for_the_order_alone_copies_no_shard(data_set: Path, tmp_path: Path):
    data = staged(data_set, tmp_path / "node")
    assert order_of(opened_sources(data), data, batch_sequences=BATCH, seed=7).lanes == BATCH
    assert not (tmp_path / "node").exists()


def rows_of(sequences: Sequences, mixture: Mixture) -> list[np.ndarray]:
    places = [mixture.place(number) for number in range(BATCH * 20)]
    return [sequences.row(place.block, place.row) for place in places]


def test_a_shard_that_is_missing_on_a_shared_file_system_ends_a_staged_run_at_once(
    data_set: Path, tmp_path: Path
):
    shared = shutil.copytree(data_set, tmp_path / "shared")
    (shared / "train-00001.tar").unlink()
    began = time.monotonic()
    with pytest.raises(DatasetError, match=r"train-00001\.tar is missing, though the index lists it"):
        run(staged(shared, tmp_path / "node"), BATCH, ranks=1, rank=0, micro=4, steps=STEPS)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("part", ["blocks", "digests"])
def test_a_staged_shard_that_is_damaged_or_gone_is_read_from_where_it_lies(
    part: str, data_set: Path, expected: list[np.ndarray], tmp_path: Path
):
    with served(data_set) as server:
        (source,) = opened_sources(staged(server, tmp_path))
        stage = Stage(tmp_path, source.index, 10**9)
        first, _ = source.index.splits["train"].shards
        content = bytearray((data_set / first.name).read_bytes())
        damaged = slice(first.table, None) if part == "digests" else slice(0, first.table, 97)
        content[damaged] = bytes(len(content[damaged]))
        stage.path(first).write_bytes(content)
        found, _ = run(staged(server, tmp_path), BATCH, ranks=1, rank=0, micro=4, steps=STEPS)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_nobody_reads_makes_room_and_what_is_read_does_not(data_set: Path, tmp_path: Path):
    old = tmp_path / "0123456789abcdef" / "train-00000.tar"
    old.parent.mkdir()
    old.write_bytes(bytes(30_000))
    with served(data_set) as server:
        (source,) = opened_sources(DataConfig(index=server.url, sequence_tokens=T))
        first, second = source.index.splits["train"].shards
        stage = Stage(tmp_path, source.index, first.bytes + 20_000)
        fetcher = Fetcher(source.index.location, FetchConfig())
        assert not stage.copy(first, fetcher.fetch, Event()), "the other run has read its shard a moment ago"
        os.utime(old, (1, 1))
        assert stage.copy(first, fetcher.fetch, Event())
        assert not old.exists()
        assert stage.copy(second, fetcher.fetch, Event()) == (second.bytes <= 20_000)
    assert not list(tmp_path.glob("*/*.tmp"))


def test_a_copy_that_is_not_what_the_index_says_is_not_kept(data_set: Path, tmp_path: Path):
    with served(data_set) as server:
        (source,) = opened_sources(DataConfig(index=server.url, sequence_tokens=T))
        stage = Stage(tmp_path, source.index, 10**9)
        wrong = replace(source.index.splits["train"].shards[0], sha256="0" * 64)
        with pytest.raises(CorruptError, match="arrived otherwise"):
            stage.copy(wrong, Fetcher(source.index.location, FetchConfig()).fetch, Event())
    assert not list(tmp_path.glob("*/*.tar*"))


@pytest.mark.parametrize("name", ["at_once", "deadline_seconds", "timeout_seconds", "stage_gb"])
def test_a_size_of_zero_is_refused(name: str):
    with pytest.raises(ValueError, match=rf"data\.fetch\.{name} must be above 0"):
        FetchConfig(**{name: 0})
