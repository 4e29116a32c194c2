"""A folder of the user's own: its files are options beside ours, wherever the package is installed."""

from pathlib import Path

import pytest

from conf import compose, option
from conf.exits import ConfigError
from conf.folders import VARIABLE
from pretrain import plan

SITE = "name: mine\nhardware: null\npeak_tflops: null\nslurm: null\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is laid out as conf/; the signs in its name mean something to Hydra."""
    folder = tmp_path / "it's, [our] conf"
    for group in ("cluster", "corpus", "experiment", "model"):
        (folder / group).mkdir(parents=True)
    (folder / "cluster" / "mine.yaml").write_text(SITE)
    (folder / "model" / "small.yaml").write_text("defaults: [gpt2_124m]\nlayers: 3\n")
    (folder / "experiment" / "ours.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: small\nsteps: 7\n"
    )
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def test_its_files_are_options_and_may_build_on_ours(own: Path):
    config = compose("train", ["cluster=mine", "experiment=ours", "run_dir=x"])
    assert (config.cluster.name, config.steps, config.model.layers, config.model.channels) == (
        "mine",
        7,
        3,
        768,
    )
    assert compose("train", ["cluster=local", "run_dir=x"]).cluster.name == "local"
    assert option("cluster", "mine").name == "mine"


def test_a_plan_of_all_experiments_has_a_line_for_theirs(own: Path, capsys: pytest.CaptureFixture[str]):
    plan.main(["experiments=all", "sizes=[8]", "cluster=h100x8_infiniband"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "ours" in names
    assert "gpt2_124m" in names
    assert "smoke" not in names


def test_a_mistyped_name_is_answered_with_ours_and_theirs(own: Path):
    for ask in (lambda: compose("train", ["cluster=mime"]), lambda: option("cluster", "mime")):
        with pytest.raises(ConfigError, match=r"no option 'mime'; choose one of: .*local.*mine"):
            ask()


def test_a_file_that_would_hide_behind_ours_is_refused(own: Path):
    (own / "cluster" / "slurm.yaml").write_text(SITE)
    with pytest.raises(ConfigError, match=r"cluster/slurm\.yaml has the name of a file that comes with"):
        compose("train", [])


def test_a_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "/nowhere")
    with pytest.raises(ConfigError, match=r"PRETRAIN_CONF=/nowhere is not a folder"):
        compose("train", [])
