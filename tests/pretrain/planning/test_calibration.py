"""A plan is calibrated by what has been measured on the same device."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from conf import compose, option
from conf.exits import CorruptError
from pretrain.batch import BatchConfig
from pretrain.planning.calibration import calibration
from pretrain.planning.plans import Plan, planned
from pretrain.planning.question import Question, plan_config, question


def asked() -> Question:
    raw = compose("plan", ["cluster=h100x8_infiniband", "model=gpt2_124m", "steps=1000"])
    found = question(raw, plan_config(raw), "gpt2_124m")
    return replace(found, batch=BatchConfig(524_288, 64), sequence_tokens=1024, compiled=True)


def measured(folder: Path, tokens_per_s_per_gpu: float, **changed: object) -> None:
    result = {
        "kind": "training_speed",
        "model": option_of("gpt2_124m"),
        "hardware": "H100",
        "ranks": 8,
        "ranks_per_node": 8,
        "sequence_tokens": 1024,
        "micro_sequences": 64,
        "accumulation": 1,
        "precision": "autocast",
        "compiled": True,
        "recompute": "none",
        "zero_stage": 1,
        "tokens_per_s_per_gpu": tokens_per_s_per_gpu,
        **changed,
    }
    (folder / f"{len(list(folder.iterdir()))}.json").write_text(json.dumps(result))


def option_of(name: str) -> dict[str, object]:
    return {key: value for key, value in option("model", name).items() if isinstance(key, str)}


def test_a_plan_is_calibrated_to_measured_runs_of_the_same_device(tmp_path: Path):
    assert calibration(asked(), tmp_path).factor == 1
    measured(tmp_path, 1.0, hardware="A100")
    assert calibration(asked(), tmp_path).factor == 1
    measured(tmp_path, 500_000.0)
    found = calibration(asked(), tmp_path)
    assert found.sources == (str(tmp_path / "1.json"),)
    after = planned(asked(), 8, found.factor)
    assert isinstance(after, Plan)
    assert after.speed.tokens_per_s == pytest.approx(8 * 500_000)


def test_a_measured_speed_without_a_field_is_refused(tmp_path: Path):
    measured(tmp_path, 500_000.0)
    path = tmp_path / "0.json"
    content = json.loads(path.read_text())
    del content["zero_stage"]
    path.write_text(json.dumps(content))
    with pytest.raises(CorruptError, match="zero_stage"):
        calibration(asked(), tmp_path)
