import shutil
from pathlib import Path

import pytest
import torch

from conf.exits import ConfigError, NoCheckpointError
from pretrain import trained
from pretrain.checkpoint import DIRECTORY

pytestmark = pytest.mark.slow  # a real run has to be trained first


def test_a_run_directory_is_a_model_at_its_last_step(tiny_run: Path):
    run = trained.load(tiny_run)
    assert (run.step, run.tokens) == (20, 20 * 1024)
    assert run.config.steps == 20
    assert not run.model.training
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    assert not any(parameter.is_meta or parameter.isnan().any() for parameter in run.model.parameters())
    assert run.model.wte.weight[50_257:].count_nonzero() == 0, "the padding has never learnt"


def test_loading_writes_nothing(tiny_run: Path):
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    trained.load(tiny_run)
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="is not a run directory"):
        trained.load(tmp_path)


def test_a_run_that_has_saved_nothing_yet_is_refused(tiny_run: Path, tmp_path: Path):
    for name in ("config.yaml", "run.json"):
        (tmp_path / name).write_bytes((tiny_run / name).read_bytes())
    with pytest.raises(NoCheckpointError, match="holds no checkpoint yet"):
        trained.load(tmp_path)


def test_a_run_whose_every_checkpoint_is_damaged_is_refused(tiny_run: Path, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    for file in (copy / DIRECTORY).glob("*/state-*"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(NoCheckpointError):
        trained.load(copy)


def test_a_step_can_be_named_and_one_that_is_not_there_is_told_with_those_that_are(tiny_run: Path):
    assert trained.load(tiny_run, "15").step == 15
    with pytest.raises(NoCheckpointError, match="no checkpoint of step 3; it holds those of 20, 15"):
        trained.load(tiny_run, "3")
    with pytest.raises(ConfigError, match="not newest, best or a step"):
        trained.load(tiny_run, "oldest")


def test_a_run_and_a_folder_together_are_one_too_many(tiny_run: Path):
    for given in ({"run_dir": None, "hf": None}, {"run_dir": str(tiny_run), "hf": "x"}):
        with pytest.raises(ConfigError, match="give run_dir=RUN, or hf=FOLDER"):
            trained.chosen(**given, checkpoint="newest")
