"""A path with anything in it means the same folder to the submission, the jobs and the trainer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from left_state import leave_state
from omegaconf import OmegaConf

from conf import compose
from conf.quoting import quoted
from data_prep.index import INDEX
from slurm import chain, finalize, supervisor
from slurm.chain import Request
from slurm.submission import settled

ODD = ["a run", "it's", "a=b", "$HOME", "a,b", "[1] (2)", 'a "b"', "a\\b", "100%", "#:&;~*"]

pytestmark = pytest.mark.parametrize("name", ODD)


def request_for(folder: Path) -> Request:
    """Return what a whole chain is asked to do in a folder."""
    settings = ["experiment=smoke", "cluster=test", "prepare.corpus=text", "prepare.corpus.paths=[/a.txt]"]
    _, submission = settled([*settings, f"run_dir={quoted(folder)}"])
    return submission.request


def test_every_job_is_told_the_folder_that_was_meant(tmp_path: Path, name: str):
    folder = tmp_path / name
    request = request_for(folder)
    assert (request.run_dir, request.output) == (folder, folder / "data")
    prepare, collect, train = chain.jobs(request)
    assert compose("prepare", prepare.arguments).output == str(folder / "data")
    assert compose("train", train.arguments).run_dir == str(folder)
    assert compose("finalize", [f"output={collect.arguments[0].partition('=')[2]}"]).output == str(
        folder / "slurm"
    )
    sweep = replace(request, output=None, tasks=(0,))
    assert compose("report", chain.jobs(sweep)[1].arguments).runs == str(folder)


def test_a_job_finds_the_run_that_lies_there(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for folder, word in ((tmp_path / name, "run_dir"), (tmp_path / "sweep" / f"00-{name}", "runs")):
        leave_state(folder, 3)
        raw = compose("train", ["steps=3", f"run_dir={quoted(folder)}"])
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(raw))
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
        given = folder if word == "run_dir" else folder.parent
        assert supervisor.main([f"{word}={quoted(given)}"]) == 0
        assert f"{folder} is done; nothing to do" in capsys.readouterr().out


def test_finalize_reads_what_was_submitted_and_finds_the_shards(
    tmp_path: Path, name: str, tiny_index: Path, capsys: pytest.CaptureFixture[str]
):
    request = request_for(tmp_path / name)
    assert request.output is not None
    shutil.copytree(tiny_index.parent, request.output)
    request.directory.mkdir()
    finalize.save(request)
    finalize.main([f"jobs={quoted(request.directory)}"])
    assert "round" not in capsys.readouterr().out
    assert json.loads((request.output / INDEX).read_text())
