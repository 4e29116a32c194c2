"""Whether a run is done is read from its settings and its newest checkpoint, never from an exit code."""

from pathlib import Path
from typing import Any

import pytest
from left_state import leave_state
from omegaconf import OmegaConf

from pretrain.storage.manifest import MANIFEST_NAME
from slurm import standing
from slurm.preflight import place_faults

SETTINGS: dict[str, Any] = {"steps": 40, "stop_at": None, "validation": {"patience": 3}}


def left(run_dir: Path, step: int, worse_validations: int = 0, **changed: Any) -> Path:
    """Leave a run's settings and one checkpoint, whose state has seen no better validation for so long."""
    leave_state(run_dir, step, worse_validations=worse_validations)
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create({**SETTINGS, **changed})))
    return run_dir


@pytest.mark.parametrize(
    ("step", "worse", "changed", "done"),
    [
        (40, 0, {}, True),
        (39, 0, {}, False),
        (20, 0, {"stop_at": 20}, True),
        (5, 3, {}, True),
        (5, 2, {}, False),
        (5, 3, {"validation": {"patience": None}}, False),
        (5, 3, {"validation": {}}, False),  # a run of before there was patience
    ],
)
def test_a_run_is_done_at_its_last_step_or_when_its_patience_is_at_an_end(
    tmp_path: Path, step: int, worse: int, changed: dict[str, Any], done: bool
):
    assert standing.is_done(left(tmp_path, step, worse, **changed)) == done


def test_what_has_ended_early_goes_on_with_more_patience(tmp_path: Path):
    left(tmp_path, 5, 3)
    more = OmegaConf.create({**SETTINGS, "validation": {"patience": 4}})
    assert standing.is_done(tmp_path)
    assert not standing.is_done(tmp_path, more)
    assert [told for told in place_faults(tmp_path, more) if "nothing to submit" in told] == []


def test_a_run_that_has_ended_early_is_not_submitted_again_and_the_fault_says_why(tmp_path: Path):
    told = list(place_faults(left(tmp_path, 5, 3)))
    assert len(told) == 1
    assert (
        "has ended early at step 5, by validation.patience; nothing to submit, give more patience" in told[0]
    )
    assert "has trained all its steps" in next(place_faults(left(tmp_path / "b", 40)))


def test_only_a_users_file_stop_is_in_the_way_of_a_submission(tmp_path: Path):
    (tmp_path / "STOP").write_text("slurm SIGUSR1 7.0\n")  # the next supervisor removes it
    assert list(place_faults(tmp_path)) == []
    (tmp_path / "STOP").write_text("")
    assert "would stop the run at once; remove it" in next(place_faults(tmp_path))


def test_a_run_without_settings_or_with_a_damaged_checkpoint_is_not_done(tmp_path: Path):
    assert not standing.is_done(tmp_path)
    (tmp_path / "file").touch()
    assert not standing.is_done(tmp_path / "file" / "run", OmegaConf.create(SETTINGS))
    left(tmp_path, 5, 3)
    (tmp_path / "checkpoints" / "step-00000005" / MANIFEST_NAME).write_bytes(b"{")
    assert not standing.is_done(tmp_path)
