"""Going on from a Hugging Face folder: the weights that it begins with, its early end, and its best state."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from trainer_job import Job, metric_rows, state_files

from conf.exits import ConfigError, UserError
from pretrain import export, frozen, imported, trained
from pretrain.distributed import World
from pretrain.opening import opened
from pretrain.storage import commit

pytestmark = pytest.mark.slow

# At this rate a model of this size soon knows its few training sequences and forgets the rest.
TUNING = ["experiment=finetune", "steps=60", "precision=fp32", "tracking=disabled", "schedule.peak=3e-2"]
SIZES = ["data.sequence_tokens=64", "batch.tokens=128", "batch.micro_sequences=2", "validation.tokens=1024"]
INTERVALS = ["validation.every=2", "validation.patience=3", "log_every=1", "checkpoint.every=3"]


@pytest.fixture(scope="module")
def folder(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "hf"
    export.main([f"run_dir={tiny_run}", f"output={output}"])
    return output


def tuning(folder: Path, index: Path, run_dir: Path, *more: str) -> list[str]:
    where = [f"init_from={folder}", f"data.index={index}", f"run_dir={run_dir}"]
    return [*TUNING, *SIZES, *INTERVALS, *where, *more]


def test_a_killed_fine_tuning_ends_early_where_one_that_was_not_does_with_the_same_best_state(
    folder: Path, other_index: Path, tiny_run: Path, tmp_path: Path
):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    Job(tmp_path / "a", *tuning(folder, other_index, straight), ranks=1).succeeded()
    rows = {row["step"]: row["val/loss"] for row in metric_rows(straight) if "val/loss" in row}
    best = min((step for step in rows if step), key=rows.__getitem__)
    last = max(rows)
    assert last == best + 6 < 60, "three validations without a better one"

    # Stopped between a save and the next, after the best state: the count of worse ones must survive.
    Job(tmp_path / "b", *tuning(folder, other_index, killed, f"stop_at={best + 3}"), ranks=1).succeeded()
    Job(tmp_path / "b", *tuning(folder, other_index, killed, "stop_at=null"), ranks=1).succeeded()
    for run_dir in (straight, killed):
        newest = commit.newest_valid(run_dir / "checkpoints", repair=False)
        assert newest is not None
        progress = newest.manifest.facts["progress"]
        assert (progress["best_step"], progress["step"]) == (best, last)
        assert trained.load(run_dir, "best").step == best
    for step in (best, last):
        assert state_files(straight, step) == state_files(killed, step)

    # The same command does nothing more; with more patience it goes on.
    more = tuning(folder, other_index, straight, "validation.patience=5", f"stop_at={last + 2}")
    Job(tmp_path / "a", *more, ranks=1).succeeded()
    assert trained.load(straight).step == last + 2


def test_two_ranks_at_zero_2_begin_with_the_given_weights_and_take_benchmarks_on_the_way(
    folder: Path, tiny_run: Path, tiny_index: Path, tmp_path: Path
):
    """The first loss is the last one of the run that was exported."""
    (tmp_path / "cloze.jsonl").write_text('{"query": "the of", "answer": "and"}\n' * 5)
    asked = ["evaluation.tasks=[cloze]", f"evaluation.files={{cloze:{tmp_path / 'cloze.jsonl'}}}"]
    asked += [
        "evaluation.every=1",
        "evaluation.prompts=['it was']",
        "evaluation.sample_tokens=4",
        "zero=stage2",
    ]
    run_dir = tmp_path / "run"
    settings = tuning(folder, tiny_index, run_dir, "steps=2", "validation.tokens=4096", *asked)
    Job(tmp_path / "job", *settings, ranks=2).succeeded()
    found, before = metric_rows(run_dir), [row for row in metric_rows(tiny_run) if "val/loss" in row]
    assert found[0]["val/loss"] == pytest.approx(before[-1]["val/loss"], rel=1e-6)
    scored = [row for row in found if "eval/cloze_acc" in row]
    assert [row["step"] for row in scored] == [1, 2]
    assert all(row["eval/cloze_ppl"] > 1 for row in found if "eval/cloze_ppl" in row)
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    samples = [line for line in lines if line.get("event") == "sample"]
    assert [(each["step"], each["prompt"]) for each in samples] == [(1, "it was"), (2, "it was")]
    tables = [line for line in lines if line.get("event") == "table"]
    assert [(each["name"], each["step"]) for each in tables] == [("eval/scores", 1), ("eval/scores", 2)]
    assert ["eval/cloze_acc", scored[-1]["eval/cloze_acc"]] in tables[-1]["rows"]


def test_the_sizes_come_from_what_a_run_begins_with_and_others_are_refused(folder: Path, tiny_run: Path):
    for source in (folder, tiny_run):
        settings = ["experiment=finetune", f"init_from={source}", "data.index=x", "run_dir=RUN"]
        raw = frozen.settled([*settings, "model.dropout=0.1"])
        assert (raw.model.layers, raw.model.channels, raw.model.dropout) == (2, 32, 0.1)
        with pytest.raises(ConfigError, match=r"model\.layers=5, but init_from=.* has 2"):
            frozen.settled([*settings, "model.layers=5"])
        weights = trained.initial_weights(source, imported.shape(folder))
        expected = trained.load(tiny_run).model.state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", ["run", "folder"])
def test_a_model_without_weights_is_refused_before_a_run_begins(
    kind: str, folder: Path, tiny_run: Path, tmp_path: Path, world: World
):
    if kind == "run":
        source, says = tmp_path / "begun", "holds no checkpoint yet"
        shutil.copytree(tiny_run, source, ignore=shutil.ignore_patterns("checkpoints"))
    else:
        source, says = tmp_path / "export", r"holds no model\.safetensors"
        shutil.copytree(folder, source, ignore=shutil.ignore_patterns("*.safetensors"))
    run_dir = tmp_path / "run"
    where = [f"init_from={source}", "data.synthetic=100000", f"run_dir={run_dir}"]
    with pytest.raises(UserError, match=says), opened(world, [*TUNING, *SIZES, *where]):
        pass
    assert not run_dir.exists()
