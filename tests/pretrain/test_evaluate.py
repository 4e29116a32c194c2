import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.exits import ConfigError, DatasetError
from pretrain import evaluate
from pretrain.distributed import World

pytestmark = pytest.mark.slow  # a real run has to be trained first


@pytest.fixture(autouse=True)
def already_joined(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lend the tests' process group, as one process can join only one."""

    @contextlib.contextmanager
    def joined() -> Iterator[World]:
        yield world

    monkeypatch.setattr(evaluate, "joined", joined)


def last_line(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    evaluate.main(list(overrides))
    return capsys.readouterr().out.splitlines()[-1]


def test_it_finds_the_last_validation_loss_that_training_recorded(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    recorded = [row for row in rows if "val/loss" in row][-1]
    assert recorded["step"] == 20
    found = last_line(capsys, f"run_dir={tiny_run}")
    assert f"step=20 validation: loss={recorded['val/loss']:.4f} " in found
    assert f"perplexity={math.exp(recorded['val/loss']):.2f} over 4,096 tokens" in found


def test_another_split_another_data_set_and_fewer_tokens(
    tiny_run: Path, other_index: Path, capsys: pytest.CaptureFixture[str]
):
    losses = {
        last_line(capsys, f"run_dir={tiny_run}", *more).partition("loss=")[2]
        for more in ([], ["split=train"], [f"index={other_index}"], ["tokens=1000"])
    }
    assert len(losses) == 4
    assert sum("over 1,024 tokens" in loss for loss in losses) == 1, "whole sequences"


def test_the_micro_batch_does_not_change_the_loss(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    lines = [last_line(capsys, f"run_dir={tiny_run}", f"micro_sequences={size}") for size in (1, 5, 64)]
    losses = [float(line.partition("loss=")[2].split()[0]) for line in lines]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-4)


def test_a_split_that_is_not_there_is_refused(tiny_run: Path):
    with pytest.raises(DatasetError, match="has no split 'test'"):
        evaluate.main([f"run_dir={tiny_run}", "split=test"])


@pytest.mark.parametrize("wrong", ["tokens=0", "tokens=-5", "micro_sequences=0"])
def test_a_size_below_one_is_refused_by_its_name(tiny_run: Path, wrong: str):
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        evaluate.main([f"run_dir={tiny_run}", wrong])
