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
