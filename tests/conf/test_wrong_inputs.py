"""What a person gets wrong, over all commands: one line names it and the way out, and nothing is done."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from shell import Refused, seen

from conf.exits import Exit


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
