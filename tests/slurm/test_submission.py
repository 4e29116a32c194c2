"""What a submission makes of its settings before anything is written."""

from pathlib import Path

import pytest

from conf import compose, typed
from conf.exits import ConfigError
from data_prep.prepare import PrepareConfig
from slurm import chain
from slurm.submission import settled

CHAIN = ["experiment=smoke", "cluster=test", "steps=2", "prepare.corpus=text"]


def prepared(tmp_path: Path, *settings: str) -> PrepareConfig:
    """Return the settings of the prepare jobs, as they read them in another directory."""
    _, submission = settled([*CHAIN, f"run_dir={tmp_path}/run", *settings])
    return typed(PrepareConfig, compose("prepare", [*submission.request.prepare, "output=x"]))


def test_relative_paths_are_those_of_whoever_submits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "it's here").mkdir()
    monkeypatch.chdir(tmp_path / "it's here")
    found = prepared(
        tmp_path,
        "prepare.corpus.paths=[books/*.txt,../more,/data/a.txt,s3://bucket/b.txt,python:stdlib]",
        "prepare.corpus.checksums=SHA256SUMS",
        "+prepare.decontamination.sets.lambada=lambada.jsonl",
        "+prepare.decontamination.sets.far=https://host/far.jsonl",
    )
    here = f"{tmp_path}/it's here"
    assert list(found.corpus.paths) == [
        f"{here}/books/*.txt",
        f"{tmp_path}/more",
        "/data/a.txt",
        "s3://bucket/b.txt",
        "python:stdlib",
    ]
    assert found.corpus.checksums == f"{here}/SHA256SUMS"
    assert found.decontamination.sets == {
        "lambada": f"{here}/lambada.jsonl",
        "far": "https://host/far.jsonl",
    }


def test_the_jobs_of_a_chain_wait_for_one_another(tmp_path: Path):
    _, submission = settled([*CHAIN, f"run_dir={tmp_path}/run", "prepare.corpus.paths=[/data/a.txt]"])
    ids = {"prepare": "1", "finalize": "2"}
    waits = {
        job.name: [option for option in job.sbatch(ids) if option.startswith("--dependency")]
        for job in chain.jobs(submission.request)
    }
    assert waits == {
        "prepare": [],
        "finalize": ["--dependency=afterany:1"],  # afterok of an array with one failure never comes
        "train": ["--dependency=afterok:2"],
    }


def test_to_go_on_with_a_run_that_never_began_is_told_as_that(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no run to go on with; to begin one, add experiment=NAME"):
        settled([f"run_dir={tmp_path}/run", "cluster=test"])
    with pytest.raises(ConfigError, match="add experiment=NAME, or steps=…, tokens=…"):
        settled([f"run_dir={tmp_path}/run", "cluster=test", "model=gpt2_124m"])


def test_paths_that_hold_anywhere_are_left_as_they_were_given(tmp_path: Path):
    given = ["prepare.corpus.paths=[/data/a.txt]"]
    _, submission = settled([*CHAIN, f"run_dir={tmp_path}/run", *given])
    assert submission.request.prepare == ("corpus=text", "corpus.paths=[/data/a.txt]")
