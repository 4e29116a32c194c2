"""Going on from a Hugging Face folder: the weights that it begins with, its early end, and its best state."""

import json
from pathlib import Path

import pytest
from trainer_job import Job, metric_rows, state_files

from pretrain import export, imported, trained
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

    # What it began with: the exported weights, so the loss that the run of the export would have there.
    begun = imported.shape(folder)
    assert trained.load(straight).config.model == begun

    # Killed between a save and the next, after the best state: the count of worse ones must survive.
    for stop in (best + 3, best + 5):
        settings = tuning(folder, other_index, killed, f"stop_at={stop}")
        Job(tmp_path / "b", *settings, ranks=1).succeeded()
    assert Job(tmp_path / "b", *tuning(folder, other_index, killed, "stop_at=null"), ranks=1).wait() == [0]
    for run_dir in (straight, killed):
        facts = commit.newest_valid(run_dir / "checkpoints", repair=False).manifest.facts  # pyright: ignore[reportOptionalMemberAccess]
        assert facts["progress"]["best_step"] == best
        assert facts["progress"]["step"] == last
        assert trained.load(run_dir, "best").step == best
    for step in (best, last):
        assert state_files(straight, step) == state_files(killed, step)

    # The same command does nothing more; with more patience it goes on.
    again = Job(tmp_path / "a", *tuning(folder, other_index, straight), ranks=1)
    again.succeeded()
    assert f"all {last} steps are done" in again.output()
    more = tuning(folder, other_index, straight, "validation.patience=5", f"stop_at={last + 2}")
    Job(tmp_path / "a", *more, ranks=1).succeeded()
    assert json.loads((straight / "attempts.jsonl").read_text().splitlines()[-1])["attempt"] == 2
    assert trained.load(straight).step == last + 2


def test_the_first_loss_is_that_of_the_model_it_begins_with_and_benchmarks_come_on_the_way(
    folder: Path, tiny_run: Path, tiny_index: Path, tmp_path: Path
):
    """On the data of the exported run; from the run itself too; on two ranks at ZeRO-3."""
    (tmp_path / "cloze.jsonl").write_text('{"query": "the of", "answer": "and"}\n' * 5)
    rows = [row for row in metric_rows(tiny_run) if "val/loss" in row]
    asked = ["evaluation.tasks=[cloze]", f"evaluation.files={{cloze:{tmp_path / 'cloze.jsonl'}}}"]
    asked += [
        "evaluation.every=1",
        "evaluation.prompts=['it was']",
        "evaluation.sample_tokens=4",
        "zero=stage3",
    ]
    for number, source in enumerate((folder, tiny_run)):
        run_dir = tmp_path / f"run{number}"
        settings = tuning(source, tiny_index, run_dir, "steps=2", "validation.tokens=4096", *asked)
        Job(tmp_path / f"job{number}", *settings, ranks=2).succeeded()
        found = metric_rows(run_dir)
        assert found[0]["val/loss"] == pytest.approx(rows[-1]["val/loss"], rel=1e-6)
        assert [row["step"] for row in found if "eval/cloze_acc" in row] == [1, 2]
        assert all(row["eval/cloze_ppl"] > 1 for row in found if "eval/cloze_ppl" in row)
        lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        samples = [line for line in lines if line.get("event") == "sample"]
        assert [(each["step"], each["prompt"]) for each in samples] == [(1, "it was"), (2, "it was")]


def test_another_shape_than_the_folders_is_refused(folder: Path, other_index: Path, tmp_path: Path):
    job = Job(tmp_path, *tuning(folder, other_index, tmp_path / "run", "model.layers=5"), ranks=1)
    assert job.wait() == [10]
    assert "model.layers=5, but init_from=" in job.output()
