"""The checker finds in a ledger what was lost, taken twice or taken wrongly, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.exits import ConfigError, CorruptError, DatasetError
from pretrain import check_ledger, frozen
from pretrain.stream.data import places_digest
from pretrain.stream.ledger import Chain
from pretrain.stream.mixing import Mixture, MixtureWalk
from pretrain.stream.sources import DataConfig, MixSource, fingerprint, opened_sources, training_data

BATCH, RANKS, STEPS, T, SEED = 16, 4, 12, 64, 1337
SHARE = BATCH // RANKS


@pytest.fixture
def run_dir(tiny_index: Path, tmp_path: Path) -> Path:
    """Return a run of four ranks that was killed after step 8 of the first attempt and went on from 6."""
    data = DataConfig(index=str(tiny_index), sequence_tokens=T)
    mixture = begin(tmp_path, data, f"data.index={tiny_index}")
    write(tmp_path, [*taken(mixture, 0, range(1, 9)), *taken(mixture, 1, range(7, STEPS + 1))])
    return tmp_path


def begin(run_dir: Path, data: DataConfig, *settings: str) -> Mixture:
    """Freeze a run of these data; return its order."""
    sources = opened_sources(data)
    raw = frozen.settled(["experiment=smoke", f"run_dir={run_dir}", *settings])
    frozen.freeze(raw, run_dir, fingerprint(sources))
    return training_data(sources, data, batch_sequences=BATCH, seed=SEED)[1]


def taken(mixture: Mixture, attempt: int, steps: range, *, behind: int = 0) -> list[dict[str, Any]]:
    """Return what the ledger says of an attempt's steps, `behind` sequences after where they would be."""
    walk, lines = MixtureWalk(mixture), []
    chains, single = [Chain() for _ in range(RANKS)], len(mixture.orders) == 1
    for step in steps:
        first = (step - 1) * BATCH + behind
        told = [places_digest(walk.places(first + r * SHARE, SHARE), single=single) for r in range(RANKS)]
        for chain, places in zip(chains, told, strict=True):
            chain.add(places)
        entry = {"step": step, "first": first, "sequences": BATCH, "share": SHARE, "places": told[0]}
        lines.append({"attempt": attempt, **entry})
        if step in {3, 6, STEPS}:
            lines.append({"attempt": attempt, "sealed": step, "ranks": [c.told() for c in chains]})
    return lines


def write(run_dir: Path, lines: list[dict[str, Any]]) -> None:
    (run_dir / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_that_was_killed_and_went_on_is_whole(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    check_ledger.main([f"run_dir={run_dir}"])
    said = capsys.readouterr().out
    assert (
        "12 steps consumed 192 sequences: 0 lost, 0 duplicated, 0 passed over by detours, 0 skipped" in said
    )
    assert "2 steps were taken again, all alike; 12 steps of all ranks agree" in said


def test_a_run_that_rolled_back_is_whole_and_tells_what_it_passed_over(
    run_dir: Path, tiny_index: Path, capsys: pytest.CaptureFixture[str]
):
    """It went back to step 4, and took the batches behind those of steps 5 and 6 from there on."""
    data = DataConfig(index=str(tiny_index), sequence_tokens=T)
    _, mixture = training_data(opened_sources(data), data, batch_sequences=BATCH, seed=SEED)
    detour = {"attempt": 0, "pass_over": [64, 96], "step": 6, "because": "a spike"}
    before, after = taken(mixture, 0, range(1, 7)), taken(mixture, 1, range(5, STEPS + 1), behind=32)
    write(run_dir, [*before, detour, *after])
    check_ledger.main([f"run_dir={run_dir}"])
    said = capsys.readouterr().out
    assert "12 steps consumed 192 sequences: 0 lost, 0 duplicated, 32 passed over by detours" in said
    assert "0 steps were taken again" in said
    write(run_dir, [*before, *after])
    with pytest.raises(CorruptError, match="32 sequences lost"):
        check_ledger.main([f"run_dir={run_dir}"])


def test_a_mixture_that_was_moved_is_checked_where_it_lies_now(
    tiny_index: Path, other_index: Path, tmp_path: Path
):
    places, moved = [], []
    for name, index in (("web", tiny_index), ("code", other_index)):
        places.append(shutil.copytree(index.parent, tmp_path / name))
        moved.append(tmp_path / "moved" / name)
    mix = f"data.mix=[{{index: {places[0]}, weight: 3}},{{index: {places[1]}}}]"
    data = DataConfig(mix=[MixSource(str(places[0]), 3), MixSource(str(places[1]))], sequence_tokens=T)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    write(run_dir, taken(begin(run_dir, data, mix), 0, range(1, 8)))
    check_ledger.main([f"run_dir={run_dir}"])
    (tmp_path / "moved").mkdir()
    for old, new in zip(places, moved, strict=True):
        old.rename(new)
    with pytest.raises(DatasetError, match=r"web.* does not exist"):
        check_ledger.main([f"run_dir={run_dir}"])
    check_ledger.main([f"run_dir={run_dir}", f"mix=[{moved[0]},{moved[1]}]"])
    with pytest.raises(DatasetError, match="was begun on data set"):
        check_ledger.main([f"run_dir={run_dir}", f"mix=[{moved[1]},{moved[0]}]"])
    for wrong in (f"index={moved[0]}", f"mix=[{moved[0]}]"):
        with pytest.raises(ConfigError, match=r"mixes .*web, .*code; give mix=\[…\] with the place of each"):
            check_ledger.main([f"run_dir={run_dir}", wrong])


def test_a_place_that_is_none_of_the_runs_data_is_refused(run_dir: Path, tiny_index: Path):
    with pytest.raises(ConfigError, match=r"reads a single data set; give its place as index="):
        check_ledger.main([f"run_dir={run_dir}", f"mix=[{tiny_index}]"])
    config = check_ledger.CheckLedgerConfig(str(run_dir), index=str(tiny_index))
    with pytest.raises(ConfigError, match=r"lies nowhere; leave out index="):
        check_ledger.moved(DataConfig(synthetic=1000), config)


def changed(step: int, **values: Any) -> Callable[[list[dict]], None]:
    def change(lines: list[dict]) -> None:
        for line in lines:
            if line.get("step") == step:
                line.update(values)

    return change


def without(step: int) -> Callable[[list[dict]], None]:
    def change(lines: list[dict]) -> None:
        lines[:] = [line for line in lines if line.get("step") != step]

    return change


def other_rank(lines: list[dict]) -> None:
    next(line for line in lines if line.get("sealed") == 6)["ranks"][2] = "0" * 64


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without(10), "16 sequences lost"),
        (changed(10, first=136), "8 sequences taken twice"),
        (changed(10, places="0" * 64), "step 10 consumed something else"),
        (other_rank, r"rank 2 consumed something else than the order says in the steps 4 to 6"),
    ],
)
def test_what_is_wrong_is_named(damage: Callable[[list[dict]], None], says: str, run_dir: Path):
    lines = [json.loads(line) for line in (run_dir / "ledger.jsonl").read_text().splitlines()]
    damage(lines)
    write(run_dir, lines)
    with pytest.raises(CorruptError, match=says):
        check_ledger.main([f"run_dir={run_dir}"])


def test_another_data_set_proves_nothing(run_dir: Path, other_index: Path):
    with pytest.raises(DatasetError, match="was begun on data set"):
        check_ledger.main([f"run_dir={run_dir}", f"index={other_index}"])
