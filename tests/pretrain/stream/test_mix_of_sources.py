"""What a run reads: given in one way, checked, and as long as it was asked to be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_data import CPU, T, made, opened

from conf.exits import ConfigError
from data_prep.index import read_index
from pretrain import frozen, length
from pretrain.batch import BatchPlan
from pretrain.stream.blocks import LocalBlocks
from pretrain.stream.data import Batches
from pretrain.stream.sequences import Sequences
from pretrain.stream.sources import (
    DataConfig,
    MixSource,
    check_caps,
    fingerprint,
    opened_sources,
    training_data,
)
from pretrain.stream.synthetic import SyntheticBlocks, synthetic_index


def test_a_source_is_called_after_its_folder_and_two_of_a_name_need_another(tmp_path: Path):
    one, other = made(tmp_path / "web" / "data", [[64]]), made(tmp_path / "b" / "web", [[64]], seed=9)
    named = DataConfig(mix=[MixSource(str(one)), MixSource(str(other), name="code")])
    assert [source.name for source in opened_sources(named)] == ["web", "code"]
    with pytest.raises(ConfigError, match="two sources are called web"):
        opened_sources(DataConfig(mix=[MixSource(str(one)), MixSource(str(other))]))


def test_a_mixture_is_another_data_set_if_one_of_its_sources_is(tmp_path: Path):
    places = [made(tmp_path / name, [[64]], seed=seed) for seed, name in enumerate("abc")]
    pairs = [
        fingerprint(opened_sources(DataConfig(mix=[MixSource(str(x)), MixSource(str(y))])))
        for x, y in ((places[0], places[1]), (places[0], places[2]), (places[1], places[0]))
    ]
    assert len(set(pairs)) == 3
    alone = opened_sources(DataConfig(index=str(places[0])))
    assert fingerprint(alone) == read_index(places[0]).fingerprint


def test_a_run_that_reads_a_source_too_often_is_refused_with_the_weight_that_fits(tmp_path: Path):
    web, code = made(tmp_path / "web", [[64] * 90]), made(tmp_path / "code", [[64] * 10], seed=9)

    def weighed(weight: float) -> None:
        mix = [MixSource(str(web), 1.0), MixSource(str(code), weight, epochs_cap=2)]
        data = DataConfig(mix=mix, sequence_tokens=T, lanes=200)
        sources = opened_sources(data)
        _, mixture = training_data(sources, data, batch_sequences=10, seed=0)
        check_caps(sources, mixture, 400)

    weighed(0.2)
    with pytest.raises(ConfigError, match=r"reads code 5\.00 times, its epochs_cap is 2; .* about 0\.4"):
        weighed(1.0)


@pytest.mark.parametrize(("lanes", "warned"), [(None, True), (32, False)])
def test_a_mixture_that_the_lanes_cut_far_from_its_weights_says_so(
    lanes: int | None, warned: bool, tmp_path: Path
):
    web, code = made(tmp_path / "web", [[64] * 90]), made(tmp_path / "code", [[64] * 10], seed=9)
    mix = [MixSource(str(web), 0.9), MixSource(str(code), 0.1)]
    data = DataConfig(mix=mix, sequence_tokens=T, lanes=lanes)
    sources, mixture = opened(data, 8)
    plan = BatchPlan(8, 1, 1, 8)
    where = {"rank": 0, "first_sequence": 0, "prefetch": 1, "device": CPU, "names": ("web", "code")}
    batches = Batches(sources, mixture, plan=plan, **where)
    batches.close()
    told, *warning = batches.told(80).splitlines()
    assert told.startswith("mixed of web 87.50%" if warned else "mixed of web 90.62%")
    says = (
        "warning: code has 12.50% for a weight of 10.00%, for 8 lanes cut no finer; begin the run with "
        "data.lanes=32, or a batch of 32 sequences"
    )
    assert warning == [says] * warned


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (["steps=7"], 7),
        (["tokens=10000", "steps=null"], 10),
        (["tokens=10241", "steps=null"], 11),
        (["data.epochs=2", "steps=null"], 12),
    ],
)
def test_a_run_is_as_long_as_its_steps_tokens_or_epochs_say(settings: list[str], steps: int, tmp_path: Path):
    """A step of the smoke experiment is 1,024 tokens; the data set has 90 rows of 64, 5,760 tokens."""
    index = made(tmp_path / "data", [[1024] * 5 + [640]], block_tokens=1024)
    raw = frozen.settled(["experiment=smoke", f"data.index={index}", f"run_dir={tmp_path}/run", *settings])
    length.settle(raw)
    assert raw.steps == steps


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["steps=null"], r"no run is in .* to go on with; add experiment=NAME, or steps=…, tokens=…"),
        (["tokens=5000"], "steps and tokens both say how long"),
        (["tokens=5000", "data.epochs=1", "steps=null"], r"tokens and data\.epochs both say"),
    ],
)
def test_a_length_that_is_not_given_or_twice_is_refused(settings: list[str], says: str, tmp_path: Path):
    raw = frozen.settled(["experiment=smoke", "data.index=INDEX", f"run_dir={tmp_path}/run", *settings])
    with pytest.raises(ConfigError, match=says):
        length.settle(raw)


def test_data_that_is_given_twice_or_not_at_all_is_refused():
    with pytest.raises(ValueError, match=r"data\.index and data\.synthetic are both given"):
        DataConfig(index="a", synthetic=5)
    with pytest.raises(ConfigError, match=r"data\.index has no value"):
        opened_sources(DataConfig())


def test_synthetic_data_is_read_like_any_other_and_is_the_same_twice():
    index = synthetic_index(200_000)
    assert index.splits["train"].tokens == 4 * 65_536
    blocks = np.array([3, 0, 3]), np.array([5, 0, 5])
    rows = []
    for _ in range(2):
        found = np.empty((3, 1025), np.uint16)
        Sequences(index, "train", 1024, cached_blocks=4, blocks=SyntheticBlocks()).fill(found, *blocks)
        rows.append(found)
    assert np.array_equal(*rows)
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])
    assert found.max() <= 50_256
    assert fingerprint(opened_sources(DataConfig(synthetic=200_000))) == index.fingerprint


def test_aligned_sequences_begin_at_the_first_document_of_their_row_that_leaves_them_room(tmp_path: Path):
    end = 50256
    block = np.arange(65, dtype=np.uint16)
    block[[0, 5, 20, 25, 40, 63]] = end  # rows begin at 0, 16, 32, 48
    folder = tmp_path / "data"
    made(folder, [[64]])
    index = read_index(folder)

    class Given(LocalBlocks):
        def read(self, shard, number, into):
            into[:] = block

    found = np.empty((4, T + 1), np.uint16)
    aligned = Sequences(index, "train", T, cached_blocks=1, blocks=Given(index), align="document")
    aligned.fill(found, np.zeros(4, int), np.arange(4))
    starts = [0, 20, 40, 48]  # in the last row a document begins at 63: too late for a whole sequence
    assert [row.tolist() for row in found] == [block[s : s + T + 1].tolist() for s in starts]


def test_the_same_settings_mean_the_same_data_without_a_mixture(tmp_path: Path):
    """A mixture of one source is that source, to the last sequence; so old runs go on as they began."""
    index = made(tmp_path / "data", [[64] * 20])
    plain = DataConfig(index=str(index), sequence_tokens=T)
    mixed = replace(plain, index=None, mix=[MixSource(str(index), 5.0)])
    orders = [training_data(opened_sources(d), d, batch_sequences=8, seed=3)[1] for d in (plain, mixed)]
    assert [orders[0].place(n) for n in range(300)] == [orders[1].place(n) for n in range(300)]
