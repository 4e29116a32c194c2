"""Every file in conf/: it composes, it fits its dataclass, and an experiment says what it costs."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from conf import DIRECTORY, compose, typed
from data_prep.finalize import FinalizeConfig
from data_prep.inspect import InspectConfig
from data_prep.prepare import PrepareConfig
from data_prep.verify import VerifyConfig
from pretrain.config import TrainConfig
from pretrain.dashboard import DashboardConfig
from pretrain.evaluate import EvaluateConfig
from pretrain.export import ExportConfig
from pretrain.sample import SampleConfig

NEEDED = ["data.index=DATA/index.json", "run_dir=RUN"]
EXPERIMENTS = sorted((DIRECTORY / "experiment").glob("*.yaml"))
GROUPS = ("model", "data", "optim", "schedule", "zero", "tracking", "cluster")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((DIRECTORY / group).glob("*.yaml"))]
CORPORA = sorted(path.stem for path in (DIRECTORY / "corpus").glob("*.yaml"))
COMMANDS = {
    "prepare": (PrepareConfig, ["corpus.paths=[a.txt]", "output=DATA"]),
    "finalize": (FinalizeConfig, ["output=DATA"]),
    "verify": (VerifyConfig, ["output=DATA"]),
    "inspect": (InspectConfig, ["output=DATA"]),
    "evaluate": (EvaluateConfig, ["run_dir=RUN", "tasks=[lambada]", "files={lambada:a.jsonl}"]),
    "sample": (SampleConfig, ["run_dir=RUN"]),
    "export": (ExportConfig, ["run_dir=RUN", "output=HF"]),
    "dashboard": (DashboardConfig, ["run_dir=RUN"]),
}


def header(path: Path) -> str:
    """Return the comment at the top of a file."""
    lines = path.read_text().splitlines()
    return "\n".join(line for line in lines[: next(n for n, line in enumerate(lines) if line[:1] != "#")])


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_composes_and_fits(path: Path):
    config = typed(TrainConfig, compose("train", [f"experiment={path.stem}", *NEEDED]))
    assert config.batch.tokens % config.data.sequence_tokens == 0
    assert config.schedule.warmup_steps < config.steps


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_says_its_command_machine_hours_and_expected_loss(path: Path):
    text = header(path)
    assert re.search(rf"-m pretrain\.train experiment={path.stem} data\.index=\S+ run_dir=\S+", text)
    assert "Machine: " in text
    assert re.search(r"Hours|minutes|Seconds", text)
    assert re.search(r"[Vv]alidation loss", text)


def test_the_experiments_are_those_that_the_commands_promise():
    promised = {"demo", "smoke", "finetune"}
    for size in ("124m", "355m", "774m", "1558m"):
        promised |= {f"gpt2_{size}", f"gpt2_{size}_owt"}
    promised.add("gpt2_124m_muon_wsd")
    promised |= {f"gpt3_{size}" for size in ("125m", "350m", "760m", "1b3", "2b7", "6b7", "13b", "175b")}
    assert promised <= {path.stem for path in EXPERIMENTS}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes_and_fits(group: str, option: str):
    beside = ["zero=stage0"] if option == "muon" else []  # the only stage that it may be used at
    given = [f"{group}={option}", *beside, "steps=1000", "data.sequence_tokens=64", *NEEDED]
    assert typed(TrainConfig, compose("train", given)).steps == 1000


@pytest.mark.parametrize("corpus", CORPORA)
def test_every_corpus_composes_and_fits(corpus: str):
    config = typed(PrepareConfig, compose("prepare", [f"corpus={corpus}", "corpus.paths=[a]", "output=DATA"]))
    assert list(config.corpus.paths) == ["a"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_and_fits(command: str):
    schema, needed = COMMANDS[command]
    typed(schema, compose(command, needed))


def test_the_groups_of_a_run_are_known_to_this_test():
    known = {*GROUPS, "experiment", "corpus", "references"}
    assert {path.name for path in DIRECTORY.iterdir() if path.is_dir() and path.name[0] != "_"} == known


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "cluster"])
def test_the_options_of_a_group_name_the_same_settings(group: str):
    """Else one would silently leave a setting to the dataclass. A site's file builds on `slurm` instead."""
    options = [OmegaConf.load(path) for path in sorted((DIRECTORY / group).glob("*.yaml"))]
    assert len({tuple(sorted(map(str, option))) for option in options}) == 1


def test_the_yaml_and_the_dataclasses_have_the_same_defaults_where_both_speak():
    """A reader of either must not be misled; groups may choose, so only the root file is compared."""
    composed = typed(TrainConfig, compose("train", ["steps=1", *NEEDED]))
    bare = TrainConfig(run_dir="RUN", steps=1)
    for name in ("seed", "precision", "compile", "resume", "stop_at", "log_every", "batch", "checkpoint"):
        assert getattr(composed, name) == getattr(bare, name), name
    assert composed.model == bare.model
    assert composed.optim == bare.optim
    assert composed.schedule == bare.schedule
    assert composed.zero == bare.zero
    assert composed.validation == bare.validation
    assert composed.evaluation == bare.evaluation
