import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf.exits import ConfigError, DatasetError
from data_prep.index import read_index
from data_prep.tokenizer import load_tokenizer
from pretrain import evaluate, export, trained
from pretrain.distributed import World
from pretrain.stream.sequences import Sequences

pytestmark = pytest.mark.slow  # a real run has to be trained first


@pytest.fixture(autouse=True)
def already_joined(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lend the tests' process group, as one process can join only one."""

    @contextlib.contextmanager
    def joined() -> Iterator[World]:
        yield world

    monkeypatch.setattr(evaluate, "joined", joined)


@pytest.fixture(scope="module")
def tiny_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy for this file: what is found is kept in the run, and told by its exports."""
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("scored") / "run"))


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
    assert (
        f"ppl={math.exp(recorded['val/loss']):.4f} bpb={recorded['val/bpb']:.4f} over 4,096 tokens" in found
    )
    kept = [json.loads(line) for line in (tiny_run / "evaluations.jsonl").read_text().splitlines()]
    assert (kept[-1]["step"], kept[-1]["task"]) == (20, "validation")
    assert kept[-1]["scores"]["loss"] == pytest.approx(recorded["val/loss"], rel=1e-6)


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


def test_bits_per_byte_are_the_loss_over_the_text_that_the_targets_decode_to(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
):
    line = last_line(capsys, f"run_dir={tiny_run}", "tokens=640")
    loss, bpb = (float(re.search(rf"{name}=(\S+)", line)[1]) for name in ("loss", "bpb"))
    index = read_index(trained.load(tiny_run).config.data.index)
    sequences = Sequences(index, "validation", 64, cached_blocks=2)
    tokenizer = load_tokenizer()
    targets = [token for row in range(10) for token in sequences.row(0, row)[1:].tolist()]
    size = sum(len(tokenizer.decode([t]).encode()) for t in targets if t != tokenizer.end_of_text)
    assert bpb == pytest.approx(loss * 640 / math.log(2) / size, rel=1e-4)


def test_benchmarks_of_a_run_and_of_its_export_are_equal_and_land_on_its_model_card(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "own.txt").write_text("the of and a in to it " * 30)
    (tmp_path / "cloze.jsonl").write_text(
        '{"query": "the of", "answer": "and"}\n{"query": "a", "answer": "b"}\n'
    )
    folder = tmp_path / "hf"
    export.main([f"run_dir={tiny_run}", f"output={folder}"])
    files = f"files={{text:{tmp_path / 'own.txt'},cloze:{tmp_path / 'cloze.jsonl'}}}"
    asked = ["tasks=[text,cloze]", files, "few_shot=1", "prompts=['it was']", "sample_tokens=3"]
    capsys.readouterr()
    said = []
    for model in (f"run_dir={tiny_run}", f"hf={folder}"):
        evaluate.main([model, *asked])
        said.append([each.partition(": ")[2] for each in capsys.readouterr().out.splitlines()][-3:])
    assert said[0] == said[1]
    assert said[0][1].startswith("acc=")
    export.main([f"run_dir={tiny_run}", f"output={folder}"])
    card = (folder / "README.md").read_text()
    assert (
        f"| cloze | 1 | none | {said[0][1].partition(' over')[0].replace('=', ' ').replace(' ppl', ', ppl')}"
        in card
    )


@pytest.fixture(scope="module")
def mixed_run(tiny_index: Path, other_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run of two steps that reads two data sets, copies that may be removed."""
    folder = tmp_path_factory.mktemp("mixed")
    sources = {"web": (tiny_index, 3), "books": (other_index, 1)}
    for name, (index, _) in sources.items():
        shutil.copytree(index.parent, folder / name)
    mix = ",".join(
        f"{{index:{folder / name}/index.json,weight:{weight}}}" for name, (_, weight) in sources.items()
    )
    command = [sys.executable, "-m", "pretrain.train", "experiment=smoke", f"data.mix=[{mix}]", "steps=2"]
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    environment = {name: value for name, value in os.environ.items() if name not in launcher}
    done = subprocess.run(
        [*command, "schedule.warmup_steps=1", f"run_dir={folder / 'run'}"],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_every_source_of_a_mixture_is_scored_as_in_training(
    mixed_run: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [json.loads(line) for line in (mixed_run / "metrics.jsonl").read_text().splitlines()]
    recorded = [row for row in rows if "val/loss" in row][-1]
    evaluate.main([f"run_dir={mixed_run}"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("", "/web", "/books"), strict=True):
        loss, bpb = recorded[f"val/loss{name}"], recorded[f"val/bpb{name}"]
        assert f"step=2 validation{name}: loss={loss:.4f} ppl={math.exp(loss):.4f} bpb={bpb:.4f} " in line
    by_weight = (3 * recorded["val/loss/web"] + recorded["val/loss/books"]) / 4
    assert recorded["val/loss"] == pytest.approx(by_weight, rel=1e-6)
    assert recorded["val/loss/web"] != recorded["val/loss/books"]
    kept = [json.loads(line) for line in (mixed_run / "evaluations.jsonl").read_text().splitlines()]
    assert [each["task"] for each in kept] == ["validation", "validation/web", "validation/books"]


def test_tasks_alone_need_no_data_set(mixed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "own.txt").write_text("the of and a in to it " * 30)
    asked = [f"run_dir={mixed_run}", "tasks=[text]", f"files={{text:{tmp_path / 'own.txt'}}}"]
    evaluate.main([*asked, "split=validation"])
    assert len(capsys.readouterr().out.splitlines()) == 4
    for name in ("web", "books"):
        shutil.move(mixed_run.parent / name, tmp_path / name)
    try:
        evaluate.main(asked)
        assert len(capsys.readouterr().out.splitlines()) == 1
        with pytest.raises(DatasetError, match=r"web/index\.json does not exist"):
            evaluate.main([f"run_dir={mixed_run}"])
    finally:
        for name in ("web", "books"):
            shutil.move(tmp_path / name, mixed_run.parent / name)


def test_a_hugging_face_folder_alone_says_what_is_missing(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"add tasks=\[…\], or index="):
        evaluate.main([f"hf={tmp_path}"])
    with pytest.raises(ConfigError, match=r"add tasks=\[…\], or index="):
        evaluate.main([f"hf={tmp_path}", "tasks=[lambada]", "split=train"])
    with pytest.raises(ConfigError, match="not one of: wikitext2"):
        evaluate.main([f"hf={tmp_path}", "tasks=[mmlu]"])


def test_a_split_that_is_not_there_is_refused(tiny_run: Path):
    with pytest.raises(DatasetError, match="has no split 'test'"):
        evaluate.main([f"run_dir={tiny_run}", "split=test"])


@pytest.mark.parametrize("wrong", ["tokens=0", "tokens=-5", "micro_sequences=0"])
def test_a_size_below_one_is_refused_by_its_name(tiny_run: Path, wrong: str):
    with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
        evaluate.main([f"run_dir={tiny_run}", wrong])
