"""Which settings a run may change between two attempts, and which are its identity."""

import pytest

from conf import compose, leaves, typed
from conf.exits import ConfigError
from pretrain.config import FREE, TrainConfig, is_free

# Every leaf of TrainConfig on which the weights depend. A new setting must be put here or into FREE, and
# whoever puts it there has decided whether a run that resumes may change it.
FIXED = {
    "steps",
    "seed",
    "precision",
    "fp8",
    *(
        f"batch.{name}"
        for name in ("tokens", "warmup_from", "warmup_tokens", "rows_from", "rows_warmup_tokens")
    ),
    "data.sequence_tokens",
    "tokens",
    "data.mix",
    "data.synthetic",
    "data.epochs",
    "data.align",
    "data.document_mask",
    "data.lanes",
    *(f"model.{name}" for name in ("layers", "heads", "channels", "context", "dropout")),
    "model.vocabulary",
    "model.padded_vocabulary",
    "model.zero_projections",
    "model.mup",
    "model.mup_base_channels",
    "init_from",
    *(f"optim.{name}" for name in ("beta1", "beta2", "epsilon", "weight_decay", "clip_norm")),
    *(f"optim.{name}" for name in ("cautious", "matrices", "momentum", "momentum_start")),
    "optim.momentum_warmup_steps",
    *(f"schedule.{name}" for name in ("shape", "peak", "warmup_steps", "final_fraction", "decay_steps")),
}


def all_leaves() -> set[str]:
    return {key for key, _ in leaves(compose("train", []))}


def test_every_setting_is_either_fixed_or_free():
    assert {key for key in all_leaves() if not is_free(key)} == FIXED


def test_what_is_free_exists():
    keys = all_leaves()
    for name in set(FREE) - {"data.mix.*.index"}:
        assert any(key == name or key.startswith(f"{name}.") for key in keys), name


def test_of_a_mixture_only_the_place_of_its_data_sets_is_free():
    assert is_free("data.mix.0.index")
    assert not any(is_free(key) for key in ("data.mix", "data.mix.0.weight", "data.mix.0.epochs_cap"))


def test_a_name_that_only_begins_like_a_free_one_is_fixed():
    assert is_free("zero.stage")
    assert not is_free("zeroth")
    assert not is_free("data")
    assert not is_free("data.indexes")
    assert not is_free("batch")


def test_the_loop_gets_the_runs_own_settings():
    config = TrainConfig(run_dir="RUN", steps=50, stop_at=7, log_every=3)
    assert (config.loop.steps, config.loop.stop_at, config.loop.log_every) == (50, 7, 3)
    assert config.loop.validate_every == config.validation.every
    assert config.loop.schedule is config.schedule
    assert config.loop.checkpoint is config.checkpoint


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"seed": -1}, {"precision": "fp16"}, {"resume": "maybe"}])
def test_a_value_out_of_range_is_refused(wrong: dict[str, object]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**{"run_dir": "RUN", "steps": 1, **wrong})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("precision=fp32", "use precision=autocast or bf16"),
        ("model.channels=72", r"model\.channels in multiples of 16, not 72"),
        ("data.sequence_tokens=24", r"data\.sequence_tokens in multiples of 16, not 24"),
    ],
)
def test_fp8_is_refused_where_its_products_cannot_be_taken(asked: str, message: str):
    given = [
        "experiment=smoke",
        "data.index=DATA/index.json",
        "run_dir=RUN",
        "fp8=true",
        "precision=autocast",
    ]
    typed(TrainConfig, compose("train", given))
    with pytest.raises(ConfigError, match=message):
        typed(TrainConfig, compose("train", [*given, asked]))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["zero=stage2", "precision=bf16"], "needs precision=autocast; or use zero=stage1"),
        (["batch.warmup_from=64", "batch.warmup_tokens=640"], "leave out batch.warmup_from"),
        (["zero=stage0"], "use zero=stage1"),
    ],
)
def test_offload_is_refused_where_it_would_be_wrong(asked: list[str], message: str):
    given = ["experiment=smoke", "data.index=DATA/index.json", "run_dir=RUN", "zero.offload=true"]
    typed(TrainConfig, compose("train", given))
    with pytest.raises(ConfigError, match=message):
        typed(TrainConfig, compose("train", [*given, *asked]))


@pytest.mark.parametrize("asked", ["evaluation.tasks=[lambada]", "evaluation.prompts=[a]"])
def test_benchmarks_between_steps_are_refused_where_parameters_are_sharded(asked: str):
    given = ["experiment=smoke", "data.index=DATA/index.json", "run_dir=RUN", asked]
    typed(TrainConfig, compose("train", given))
    with pytest.raises(ConfigError, match=r"zero\.stage 3; use zero=stage2"):
        typed(TrainConfig, compose("train", [*given, "zero=stage3"]))
