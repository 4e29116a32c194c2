"""The checker finds in a ledger what was lost, taken twice or taken wrongly, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.exits import CorruptError, DatasetError
from pretrain import check_ledger, frozen
from pretrain.stream.data import places_digest
from pretrain.stream.ledger import Chain
from pretrain.stream.mixing import MixtureWalk
from pretrain.stream.sources import DataConfig, fingerprint, opened_sources, training_data

BATCH, RANKS, STEPS, T, SEED = 16, 4, 12, 64, 1337
SHARE = BATCH // RANKS


@pytest.fixture
def run_dir(tiny_index: Path, tmp_path: Path) -> Path:
    """Return a run of four ranks that was killed after step 8 of the first attempt and went on from 6."""
    data = DataConfig(index=str(tiny_index), sequence_tokens=T)
    sources = opened_sources(data)
    raw = frozen.settled(["experiment=smoke", f"data.index={tiny_index}", f"run_dir={tmp_path}"])
    frozen.freeze(raw, tmp_path, fingerprint(sources))
    _, mixture = training_data(sources, data, batch_sequences=BATCH, seed=SEED)
    walk, lines = MixtureWalk(mixture), []
    for attempt, steps in ((0, range(1, 9)), (1, range(7, STEPS + 1))):
        chains = [Chain() for _ in range(RANKS)]
        for step in steps:
            first = (step - 1) * BATCH
            told = [places_digest(walk.places(first + r * SHARE, SHARE), single=True) for r in range(RANKS)]
            for chain, places in zip(chains, told, strict=True):
                chain.add(places)
            entry = {"step": step, "first": first, "sequences": BATCH, "share": SHARE, "places": told[0]}
            lines.append({"attempt": attempt, **entry})
            if step in {3, 6, STEPS}:
                lines.append({"attempt": attempt, "sealed": step, "ranks": [c.told() for c in chains]})
    write(tmp_path, lines)
    return tmp_path


def write(run_dir: Path, lines: list[dict[str, Any]]) -> None:
    (run_dir / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_that_was_killed_and_went_on_is_whole(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    check_ledger.main([f"run_dir={run_dir}"])
    said = capsys.readouterr().out
    assert "12 steps consumed 192 sequences: 0 lost, 0 duplicated, 0 skipped" in said
    assert "2 steps were taken again, all alike; 12 steps of all ranks agree" in said


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
