"""The one door: what passes from the command line into a frozen dataclass, and what is refused how."""

import dataclasses
import re
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from conf import compose, leaves, override_key, typed
from conf.exits import ConfigError, UserError
from data_prep.prepare import PrepareConfig
from pretrain.config import TrainConfig

GIVEN = ["experiment=smoke", "data.index=DATA/index.json", "run_dir=RUN"]


def train_config(*overrides: str) -> TrainConfig:
    return typed(TrainConfig, compose("train", [*GIVEN, *overrides]))


@pytest.fixture(scope="module")
def smoke() -> DictConfig:
    return compose("train", GIVEN)


def refusal_of_value(config: DictConfig, override: str) -> str:
    """As `refusal`, for a known key: without composing anew, which takes Hydra a tenth of a second."""
    changed = OmegaConf.merge(config, OmegaConf.from_dotlist([override]))
    assert isinstance(changed, DictConfig)
    with pytest.raises(ConfigError) as refused:
        typed(TrainConfig, changed)
    return str(refused.value)


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        train_config(*overrides)
    return str(refused.value)


def test_the_command_line_overrules_the_experiment_and_the_experiment_the_groups():
    config = train_config("batch.tokens=2048")
    assert config.batch.tokens == 2048
    assert config.model.channels == 32, "the experiment's, not the group's 128"
    assert config.model.padded_vocabulary == 50_304, "the group's"


def test_every_level_of_a_config_is_frozen():
    config = train_config()
    for part in (config, config.model, config.batch, config.schedule, config.tracking):
        name = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, 1)


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("modle=tiny", "model"),
        ("model.layer=3", "model.layers"),
        ("batch.token=1024", "batch.tokens"),
        ("step=10", "steps"),
        ("learning.peak=1e-3", "schedule.peak"),
        ("validation.evry=3", "validation.every"),
        ("+schedule.warmup_step=3", "schedule.warmup_steps"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest_one(override: str, nearest: str):
    assert f"did you mean '{nearest}'?" in refusal(override)


@pytest.mark.parametrize("override", ["+foo=1", "++foo=1", "foo=1", "+model.foo=3", "+foo.bar=2"])
def test_nothing_that_no_dataclass_knows_comes_in(override: str):
    assert "unknown key" in refusal(override)


def test_an_unknown_option_is_refused_with_the_choices():
    assert re.search(r"model has no option 'gpt3'; choose one of: .*gpt2_124m.*tiny", refusal("model=gpt3"))
    assert "choose one of: demo, " in refusal("experiment=nope")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=abc", "seed"),
        ("seed=1.5", "seed"),
        ("steps=true", "steps"),
        ("steps=1e3", "steps"),
        ("compile=maybe", "compile"),
        ("seed=null", "seed"),
        ("zero.stage=null", "zero.stage"),
        ("model.layers=[2]", "model.layers"),
        ("schedule.peak=high", "schedule.peak"),
        ("data.mix=one", "data.mix"),
        ("optim.beta1=null", "optim.beta1"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_key(smoke: DictConfig, override: str, key: str):
    assert refusal_of_value(smoke, override).startswith(f"{key}: ")


@pytest.mark.parametrize(
    "override", ["schedule=1", "model=null", "=3", "steps", "data=[1", "batch=3", "a b=c"]
)
def test_what_is_no_override_is_refused_in_one_line(override: str):
    assert "\n" not in refusal(override)


@pytest.mark.parametrize("override", ["model=null", "schedule=1", "batch=3"])
def test_a_group_that_is_given_a_plain_value_is_named(override: str):
    assert refusal(override).startswith(override.partition("=")[0])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("zero=3", "zero has no option '3'; choose one of: stage0, stage1, stage2, stage3"),
        ("model=[a]", "model has no option 'a'; choose one of: gpt2_124m, "),
        ("batch.tokens=500k", "batch.tokens: '500k' is not a whole number; write 500000"),
        ("batch.tokens=524,288", "is more than one value; write batch.tokens=524288"),
        ("steps=1e3", "steps: '1000.0' is not a whole number; write 1000"),
        ("steps=12h", "steps: '12h' is not a whole number"),
        ("schedule.peak=high", "schedule.peak: 'high' is not a number"),
        ("compile=maybe", "compile: 'maybe' is not true or false"),
        ("seed=null", "seed: null is no value of it"),
        ("tracking.project=a,b", "write tracking.project=[a,b] for a list, or '\"a,b\"' for one text"),
        ("data.mix=DIR", "data.mix: a list is wanted; write data.mix=[…]"),
        ("data.mix=[A,B]", "data.mix[0]: settings with names are wanted; write {NAME: VALUE, …}"),
        ("evaluation.files=a.txt", "evaluation.files: settings with names are wanted"),
        ("optim.lr=3e-4", "did you mean 'schedule.peak'?"),
        ("learning_rate=3e-4", "did you mean 'schedule.peak'?"),
        ("batch_size=512", "did you mean 'batch.tokens'?"),
        ("max_steps=10", "did you mean 'steps'?"),
        ("optim.foo=3", "unknown key 'optim.foo' for train; optim has: beta1, beta2, epsilon, "),
    ],
)
def test_what_fits_nothing_is_refused_with_what_would_be_right(override: str, says: str):
    message = refusal(override)
    assert says in message
    assert "\n" not in message


def test_a_single_value_stands_for_a_list_of_one():
    config = train_config("evaluation.tasks=lambada", "tracking.tags=one", "evaluation.prompts=[a,b]")
    assert (config.evaluation.tasks, config.tracking.tags) == (["lambada"], ["one"])
    assert config.evaluation.prompts == ["a", "b"]
    prepare = compose("prepare", ["corpus.paths=DIR", "output=DATA"])
    assert typed(PrepareConfig, prepare).corpus.paths == ["DIR"]
    assert prepare.corpus.paths == "DIR", "what is given stays as it is"


def test_a_missing_value_is_refused_with_the_words_to_add():
    with pytest.raises(ConfigError, match=r"run_dir has no value; add run_dir=… to the command"):
        typed(TrainConfig, compose("train", ["experiment=smoke", "data.index=INDEX"]))


@pytest.mark.parametrize(
    "override",
    [
        "steps=0",
        "log_every=0",
        "stop_at=0",
        "seed=-1",
        "seed=2147483648",
        "precision=fp16",
        "resume=maybe",
        "batch.tokens=0",
        "batch.micro_sequences=0",
        "data.sequence_tokens=0",
        "data.sequence_tokens=128",  # longer than the model's context of 64
        "data.prefetch_batches=0",
        "data.lanes=0",
        "model.layers=0",
        "model.heads=3",
        "model.channels=0",
        "model.context=0",
        "model.vocabulary=0",
        "model.padded_vocabulary=50256",
        "model.dropout=1.0",
        "model.dropout=-0.1",
        "optim.beta1=1.0",
        "optim.beta2=-0.1",
        "optim.epsilon=-1e-8",
        "optim.weight_decay=-0.1",
        "optim.weight_decay=nan",
        "optim.clip_norm=-1",
        "optim.clip_norm=nan",
        "schedule.shape=linear",
        "schedule.peak=0",
        "schedule.peak=1.5",
        "schedule.peak=nan",
        "schedule.warmup_steps=-1",
        "schedule.final_fraction=1.1",
        "schedule.decay_steps=0",
        "zero.stage=4",
        "zero.reduce_bucket=0",
        "zero.gather_bucket=0",
        "validation.every=-1",
        "validation.tokens=0",
        "validation.micro_sequences=0",
        "checkpoint.every=-1",
        "checkpoint.minutes=0",
        "checkpoint.minutes=nan",
        "checkpoint.keep_last=1",
        "checkpoint.keep_every=0",
        "cluster.peak_tflops=0",
        "tracking.wandb=sometimes",
        "tracking.init_timeout_seconds=0",
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key_and_value(smoke: DictConfig, override: str):
    key, _, value = override.partition("=")
    message = refusal_of_value(smoke, override)
    assert key in message
    assert value in message or f"{float(value):g}" in message


def test_pure_bf16_without_sharded_state_is_refused():
    assert "zero=stage1" in refusal("precision=bf16", "zero=stage0")
    assert train_config("precision=bf16", "zero=stage1").zero.stage == 1


def test_user_errors_are_value_errors_so_that_dataclasses_need_not_know_the_door():
    assert issubclass(UserError, ValueError)


def test_leaves_are_dotted_and_a_missing_value_is_none():
    config = OmegaConf.create({"a": {"b": 1, "c": "???"}, "d": None, "e": [1, 2]})
    assert dict(leaves(config)) == {"a.b": 1, "a.c": None, "d": None, "e": [1, 2]}


@pytest.mark.parametrize(
    "override", ["model.layers=2", "+model.layers=2", "++model.layers=2", "~model.layers"]
)
def test_the_key_of_an_override_is_found_behind_its_signs(override: str):
    assert override_key(override) == "model.layers"


def test_composing_does_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = compose("train", GIVEN)
    monkeypatch.chdir(tmp_path)
    assert compose("train", GIVEN) == here
