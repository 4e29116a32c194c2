"""What a person gets wrong, over all commands: one line names it and the way out, and nothing is done."""

import errno
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from shell import Refused, seen

from conf import command
from conf.exits import Exit
from pretrain.watching.metrics_log import MetricsLog


def main_of(module: str, begin: Callable[[list[str]], None]) -> Callable[[list[str]], int | None]:
    """Return what a command does; of training, all that comes before any work."""
    return begin if module == "pretrain.train" else import_module(module).main


EMPTY = [
    "pretrain.train experiment=smoke data.synthetic=true run_dir=",
    "pretrain.train experiment=smoke data.index= run_dir=RUN",
    "pretrain.train experiment=smoke data.synthetic=true run_dir=RUN evaluation.files={text:''}",
    "data_prep.prepare corpus.paths=[.] output=",
    "data_prep.prepare corpus.paths=[''] output=DATA",
    "data_prep.finalize output=",
    "data_prep.verify output=",
    "data_prep.inspect output=DATA html=",
    "pretrain.sample run_dir=",
    "pretrain.sample run_dir=RUN prompts_file=",
    "pretrain.evaluate hf= tasks=[text]",
    "pretrain.export run_dir=RUN output=",
    "pretrain.report run_dir=RUN output=",
    "pretrain.report runs=",
    "pretrain.dashboard run_dir=RUN export=",
    "pretrain.check_ledger run_dir=",
    "pretrain.verify_resume run_dir=",
    "pretrain.doctor folder= ranks=0",
    "slurm.submit experiment=smoke run_dir=",
    "slurm.submit experiment=smoke only=prepare prepare.corpus.paths=[.] prepare.output=",
    "slurm.submit experiment=smoke run_dir=RUN prepare.corpus.paths=[.] data.index=",
]


@pytest.mark.parametrize("line", EMPTY)
def test_a_path_that_is_empty_is_not_the_current_directory(
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    refused: Refused,
    begin: Callable[..., None],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("some text")
    module, *arguments = line.split()
    wrong = next(each for each in arguments if each.endswith(("=", "''}", "['']"))).partition("=")[0]
    code, said = refused(main_of(module, begin), arguments)
    assert (code, f"{wrong.removeprefix('prepare.')}" in said, "is empty" in said) == (
        Exit.CONFIG,
        True,
        True,
    ), said
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_prompt_may_be_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    main = import_module("pretrain.sample").main
    _, _, said = seen(main, [f"run_dir={tmp_path}", "prompt="], monkeypatch, capsys, "sample")
    assert "is not a run directory" in said


@pytest.fixture(scope="module")
def logged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that has logged a step."""
    run_dir = tmp_path_factory.mktemp("logged") / "run"
    log = MetricsLog(run_dir, attempt=0, say=print)
    log.write({"step": 1, "tokens": 64, "loss": 9.0})
    log.close()
    return run_dir


WRONG_PATHS = [
    # Where a page goes, and what is in the way.
    ("data_prep.inspect output={data} html={folder}", "is a directory; name a file in it"),
    ("data_prep.inspect output={data} html={file}/a.html", "{file}: File exists"),
    ("data_prep.inspect output={data} html={file}/b/a.html", "{file}/b: Not a directory"),
    ("data_prep.inspect output={data} html=/proc/a.html", "/proc/a.html: No such file"),
    ("pretrain.report run_dir={run} output={file}", "{file}: File exists"),
    ("pretrain.report run_dir={run} output=/proc/x", "/proc/x: No such file"),
    ("pretrain.dashboard run_dir={run} export={folder}", "is a directory; name a file in it"),
    ("pretrain.dashboard run_dir={run} export={file}/p.html", "{file}: File exists"),
    ("pretrain.dashboard run_dir={run} export=/proc/p.html", "/proc/p.html: No such file"),
    ("pretrain.dashboard runs=[{run}] export=" + 300 * "x", "File name too long"),
    ("pretrain.train experiment=smoke data.synthetic=true run_dir=" + 300 * "x", "File name too long"),
    ("pretrain.sample run_dir=" + 300 * "x", "File name too long"),
]


@pytest.mark.parametrize(("line", "says"), WRONG_PATHS)
def test_a_path_that_cannot_be_used_is_named(
    line: str,
    says: str,
    *,
    tiny_index: Path,
    logged_run: Path,
    tmp_path: Path,
    begin: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    places = {"data": tiny_index.parent, "run": logged_run, "folder": tmp_path, "file": tmp_path / "file"}
    places["file"].touch()
    module, *arguments = line.format_map(places).split()
    code, _, said = seen(main_of(module, begin), arguments, monkeypatch, capsys)
    assert (code, says.format_map(places) in said, said.count("\n")) == (Exit.CONFIG, True, 1), said


def test_a_page_goes_into_a_new_folder(tiny_index: Path, tmp_path: Path):
    main_of("data_prep.inspect", print)([f"output={tiny_index.parent}", f"html={tmp_path}/new/folder/a.html"])
    assert (tmp_path / "new" / "folder" / "a.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("number", "file"),
    [
        (errno.ENOENT, "{given}/metrics.jsonl"),  # below what was given: it is for us to know what is there
        (errno.ENOENT, "/elsewhere"),
        (errno.EACCES, "/elsewhere"),
        (errno.EEXIST, None),
        (errno.ECONNRESET, "{given}"),
    ],
)
def test_a_path_that_nobody_gave_is_our_own_bug(
    number: int, file: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def main(_: list[str]) -> None:
        raise OSError(number, "no", file and file.format(given=tmp_path))

    monkeypatch.setattr(sys, "argv", ["command", f"run_dir={tmp_path}", "steps=9"])
    with pytest.raises(OSError, match="no"):
        command.run(main, name="pretrain.command", config="train", usage=None)


WRONG = [
    ("pretrain.train run_dir=nosuch", "no run is in nosuch to go on with; add experiment=NAME"),
    ("pretrain.plan experiment=gpt2_124m hardware=H100 gpus=7", "4 or 8 ranks can share 512 sequences"),
    (
        "pretrain.plan experiment=gpt2_124m hardware=H100 usd_per_gpu_hour=-2",
        "usd_per_gpu_hour -2.0 is negative",
    ),
    ("pretrain.plan experiment=gpt2_124m hardware=H100 failures_per_gpu_hour=0", "must be above 0"),
    ("pretrain.plan experiment=gpt2_124m hardware=H100 results=/nope", "results=/nope is not a folder"),
    ("data_prep.inspect output={data} documents=-1", "documents=-1 is negative"),
    ("data_prep.inspect output={data} characters=-1", "characters=-1 is negative"),
    (
        "slurm.submit experiment=smoke run_dir=R cluster=slurm cluster.slurm.train.nodez=2",
        "'cluster.slurm.train.nodes'?",
    ),
    (
        "slurm.submit experiment=smoke run_dir=R data.synthetic=yes",
        "data.synthetic: 'yes' is not a whole number",
    ),
]


@pytest.mark.parametrize(("line", "says"), WRONG)
def test_what_is_asked_for_wrongly_is_refused(
    line: str,
    says: str,
    *,
    tiny_index: Path,
    begin: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    module, *arguments = line.format(data=tiny_index.parent).split()
    code, _, said = seen(main_of(module, begin), arguments, monkeypatch, capsys)
    assert (code, says in said, said.count("\n")) == (Exit.CONFIG, True, 1), said


def test_of_what_slurm_says_without_a_controller_the_last_line_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    said = "sinfo: error: DNS SRV lookup failed\\nsinfo: fatal: Could not establish a configuration source"
    (tmp_path / "sinfo").write_text(f"#!/bin/sh\nprintf '{said}\\n' >&2\nexit 1\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    arguments = ["experiment=smoke", f"run_dir={tmp_path}/run", "cluster=slurm", "data.synthetic=9"]
    _, _, told = seen(main_of("slurm.submit", print), arguments, monkeypatch, capsys)
    assert "fault: sinfo: Could not establish a configuration source; is this a login node" in told
    assert "DNS" not in told
