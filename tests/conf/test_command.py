"""What a shell sees of a command: one line, no traceback, and the exit code that says what is wrong."""

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from shell import Refused, seen

from conf import command
from conf.exits import Exit, NonFiniteError, UserError
from pretrain import evaluate, export, opening, sample
from pretrain.distributed import World

ROOT = Path(__file__).parents[2]


BAD_TRAINING = [
    # What is added to a good command, the exit code, a part of the line.
    ("modle=tiny", Exit.CONFIG, "did you mean 'model'?"),
    ("model.layer=2", Exit.CONFIG, "did you mean 'model.layers'?"),
    ("model=gpt5", Exit.CONFIG, "choose one of:"),
    ("+foo=1", Exit.CONFIG, "unknown key 'foo'"),
    ("seed=abc", Exit.CONFIG, "seed:"),
    ("steps=0", Exit.CONFIG, "steps must be at least 1"),
    ("steps", Exit.CONFIG, "write key=value"),
    ("model=null", Exit.CONFIG, "model has no option 'null'"),
    ("--steps=5", Exit.CONFIG, "unknown flag --steps=5"),
    ("batch.tokens=1000", Exit.CONFIG, "use 960 or 1024"),
    ("data.sequence_tokens=128", Exit.CONFIG, "longer than model.context"),
    ("zero=stage0 precision=bf16", Exit.CONFIG, "use zero=stage1"),
    ("model.heads=3", Exit.CONFIG, "does not divide"),
    ("data.sequence_tokens=60 batch.tokens=960", Exit.DATASET, "does not divide the data set's blocks"),
    ("model.vocabulary=300 model.padded_vocabulary=320", Exit.DATASET, "use 50257 or more"),
    ("data.index=/nowhere/index.json", Exit.DATASET, "/nowhere/index.json does not exist"),
    ("data.index=pyproject.toml", Exit.DATASET, "is not the index.json of a data set"),
    ("reference=gpt2", Exit.CONFIG, "references has no option 'gpt2'; choose one of: demo, "),
    ("evaluation.tasks=[text]", Exit.CONFIG, "add files={text:FILE}"),
    ("evaluation.tasks=[text] evaluation.files={text:/nowhere}", Exit.DATASET, "/nowhere cannot be read"),
    ("evaluation.tasks=[cloze] evaluation.files={cloze:pyproject.toml}", Exit.DATASET, "no 'query' but text"),
    ("resume=must", Exit.NO_CHECKPOINT, "use resume=auto"),
]


@pytest.mark.parametrize(("added", "code", "says"), BAD_TRAINING)
def test_a_run_that_cannot_be_is_refused_before_it_leaves_a_trace(
    added: str, code: Exit, says: str, *, tiny_index: Path, tmp_path: Path, refused: Refused, begin: object
):
    run_dir = tmp_path / "run"
    good = ["experiment=smoke", f"data.index={tiny_index}", f"run_dir={run_dir}"]
    found, line = refused(begin, [*good, *added.split()])
    assert found == code, line
    assert says in line
    assert not run_dir.exists()


def test_fp8_on_a_gpu_that_has_none_is_refused_before_it_leaves_a_trace(
    tiny_index: Path, tmp_path: Path, refused: Refused, begin: object, *, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pretrain.opening.has_float8", lambda device: False)
    good = ["experiment=smoke", f"data.index={tiny_index}", f"run_dir={tmp_path / 'run'}"]
    found, line = refused(begin, [*good, "fp8=true", "precision=autocast"])
    assert (found, "use fp8=false" in line) == (Exit.CONFIG, True), line
    assert not (tmp_path / "run").exists()


def test_a_run_that_can_be_is_not_refused(tiny_index: Path, tmp_path: Path, begin: Callable[..., None]):
    begin(["experiment=smoke", f"data.index={tiny_index}", f"run_dir={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "config.yaml").exists()


def test_a_run_of_another_config_or_data_set_is_refused(
    tiny_index: Path, other_index: Path, tmp_path: Path, *, refused: Refused, begin: Callable[..., None]
):
    good = ["experiment=smoke", f"data.index={tiny_index}", f"run_dir={tmp_path / 'run'}"]
    begin(good)
    code, line = refused(begin, [*good, "seed=2"])
    assert (code, "seed 1337 → 2" in line) == (Exit.CONFIG, True)
    code, line = refused(begin, [*good, f"data.index={other_index}"])
    assert (code, "was begun on data set" in line) == (Exit.DATASET, True)


def test_an_index_of_another_vocabulary_or_format_is_refused(
    tiny_index: Path, tmp_path: Path, *, refused: Refused, begin: Callable[..., None]
):
    good = ["experiment=smoke", f"run_dir={tmp_path / 'run'}"]
    for key, value, says in (
        ("vocabulary_sha256", "0" * 64, "another vocabulary"),
        ("format", 99, "format 99"),
    ):
        raw = json.loads(tiny_index.read_text())
        raw[key] = value
        (tmp_path / "index.json").write_text(json.dumps(raw))
        code, line = refused(begin, [*good, f"data.index={tmp_path / 'index.json'}"])
        assert (code, says in line) == (Exit.DATASET, True), line


@pytest.mark.parametrize(
    ("run_dir", "expected"),
    [("{file}", Exit.CONFIG), ("{file}/run", Exit.REFUSED), ("/proc/run", Exit.CONFIG)],
)
def test_a_path_that_cannot_be_a_directory_is_refused(
    run_dir: str, expected: Exit, tiny_index: Path, tmp_path: Path, *, refused: Refused, begin: object
):
    file = tmp_path / "file"
    file.touch()
    good = ["experiment=smoke", f"data.index={tiny_index}"]
    code, line = refused(begin, [*good, f"run_dir={run_dir.format(file=file)}"])
    assert (code, "director" in line) == (expected, True), line


def test_a_directory_that_another_process_trains_in_is_refused(
    tiny_index: Path, tmp_path: Path, world: World, *, refused: Refused, begin: Callable[..., None]
):
    good = ["experiment=smoke", f"data.index={tiny_index}", f"run_dir={tmp_path / 'run'}"]
    with opening.opened(world, good):
        code, _ = refused(begin, good)
    assert code == Exit.LEASE_HELD


@pytest.mark.parametrize(
    ("main", "arguments", "says"),
    [
        (evaluate.main, ["run_dir=."], "is not a run directory"),
        (evaluate.main, ["run_dir=.", "tokns=5"], "did you mean 'tokens'?"),
        (evaluate.main, ["run_dir=.", "tokens=0"], "tokens must be at least 1"),
        (evaluate.main, [], "give run_dir=RUN"),
        (sample.main, ["run_dir=."], "is not a run directory"),
        (sample.main, ["run_dir=.", "temperature=-1"], "temperature"),
        (export.main, ["run_dir=."], "output has no value"),
        (export.main, ["run_dir=.", "output=x"], "is not a run directory"),
    ],
)
def test_the_other_commands_refuse_alike(
    main: Callable[[list[str]], None], arguments: list[str], says: str, refused: Refused
):
    code, line = refused(main, arguments)
    assert code == Exit.CONFIG
    assert says in line


def test_an_error_of_many_lines_becomes_one(refused: Refused):
    def main(_: list[str]) -> None:
        raise NonFiniteError("the loss\n  is   not\nfinite")

    assert refused(main, []) == (14, "pretrain.command: error: the loss is not finite [exit 14]\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_disk_that_refuses_has_a_code_of_its_own(number: int, refused: Refused):
    def main(_: list[str]) -> None:
        raise OSError(number, "the disk says no", "/there/file")

    code, line = refused(main, [])
    assert code == Exit.DISK
    assert "/there/file: the disk says no; free space" in line


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def main(_: list[str]) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(KeyError):
        command.run(main, name="pretrain.command", config="train", usage=None)


@pytest.mark.parametrize("code", [None, Exit.OK, Exit.REQUEUE])
def test_what_main_returns_is_the_exit_code(
    code: Exit | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert seen(lambda _: code, [], monkeypatch, capsys) == (int(code or 0), "", "")


def test_help_and_the_composed_config_are_printed_and_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def main(_: list[str]) -> None:
        raise AssertionError("this must not run")

    assert seen(main, ["--help"], monkeypatch, capsys) == (0, "How to use it.\n", "")
    code, printed, _ = seen(main, ["--cfg", "job", "experiment=smoke"], monkeypatch, capsys)
    assert code == 0
    assert "steps: 20\n" in printed
    assert "  channels: 32\n" in printed


def test_every_error_has_one_of_the_codes_of_the_table():
    codes = [error.code for error in UserError.__subclasses__()]
    assert set(codes) <= set(Exit)
    assert {int(code) for code in Exit} == {0, 10, 11, 12, 13, 14, 15, 16, 17, 18, 75}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "code"),
    [
        (
            "pretrain.train",
            ["experiment=smoke", "run_dir={run}", "data.index={index}", "modle=x"],
            Exit.CONFIG,
        ),
        ("pretrain.train", ["experiment=smoke", "run_dir={run}", "data.index=/nowhere"], Exit.DATASET),
        ("pretrain.train", ["experiment=smoke", "run_dir=/proc/run", "data.index={index}"], Exit.CONFIG),
        ("pretrain.evaluate", ["run_dir={run}"], Exit.CONFIG),
        ("pretrain.sample", ["--run_dir={run}"], Exit.CONFIG),
        ("pretrain.export", ["run_dir={run}"], Exit.CONFIG),
    ],
)
def test_real_processes_leave_with_these_codes_too(
    module: str, arguments: list[str], code: Exit, *, tiny_index: Path, tmp_path: Path
):
    filled = [each.format(run=tmp_path / "run", index=tiny_index) for each in arguments]
    done = subprocess.run(
        [sys.executable, "-m", module, *filled], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments", "shows"),
    [
        ("pretrain.train", "experiment=smoke --cfg job", "steps: 20\n"),
        ("pretrain.dashboard", "status --watch --cfg job runs=R", "watch: 10\n"),
        ("slurm.submit", "--cfg job cluster=slurm", "cluster:\n  name: slurm\n"),
        (
            "slurm.submit",
            "run_dir=R --dry-run --cfg job prepare.corpus=jsonl",
            "  corpus:\n    name: null\n    kind: jsonl\n",
        ),
    ],
)
def test_the_composed_config_is_shown_wherever_it_is_asked_for(module: str, arguments: str, shows: str):
    command = [sys.executable, "-m", module, *arguments.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, shows in done.stdout, done.stderr) == (0, True, ""), done.stdout


def test_only_the_config_of_the_job_is_shown(refused: Refused):
    assert "write --cfg job" in refused(lambda _: None, ["--cfg", "hydra"])[1]
