"""The planner's arithmetic of a model's shape is that of the model itself."""

from dataclasses import fields

import pytest
import torch

from conf import DIRECTORY, option, typed
from pretrain.model import GPT, GPTConfig, parameter_count
from pretrain.planning.shape import Shape, flops_per_token
from pretrain.throughput import flops_per_token as palm

SHAPES = sorted(path.stem for path in (DIRECTORY / "model").glob("gpt*.yaml"))
# Brown et al., 2020, table 2.1; OpenAI's four GPT-2 as `transformers` counts them.
PUBLISHED = {
    "gpt2_124m": 124_439_808,
    "gpt2_355m": 354_823_168,
    "gpt2_774m": 774_030_080,
    "gpt2_1558m": 1_557_611_200,
    "gpt3_125m": 125e6,
    "gpt3_350m": 350e6,
    "gpt3_760m": 760e6,
    "gpt3_1b3": 1.3e9,
    "gpt3_2b7": 2.7e9,
    "gpt3_6b7": 6.7e9,
    "gpt3_13b": 13e9,
    "gpt3_175b": 175e9,
}


def shape(name: str) -> Shape:
    return typed(Shape, option("model", name))


def test_the_shape_has_the_sizes_of_the_models_own_config():
    own = {field.name: field.default for field in fields(GPTConfig)}
    assert {field.name for field in fields(Shape)} <= set(own)


@pytest.mark.parametrize("name", SHAPES)
def test_the_parameters_are_those_of_the_model_on_the_meta_device(name: str):
    found = shape(name)
    with torch.device("meta"):
        model = GPT(typed(GPTConfig, option("model", name)))
    assert found.parameters == parameter_count(model)
    assert found.padded_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parameters_are_as_published(name: str):
    exact = name.startswith("gpt2")
    assert shape(name).parameters == pytest.approx(PUBLISHED[name], rel=0 if exact else 0.03)


@pytest.mark.parametrize("name", SHAPES)
def test_the_parts_sum_to_the_flops_that_utilisation_is_stated_against(name: str):
    """6N + 12·L·C·T counts biases and LayerNorms as products, which the parts do not: a thousandth."""
    found = shape(name)
    in_products = found.parameters - found.context * found.channels
    expected = palm(
        parameters=in_products, layers=found.layers, channels=found.channels, sequence_tokens=found.context
    )
    assert sum(flops_per_token(found, found.context).values()) == pytest.approx(expected, rel=2e-3)


def test_the_twelve_published_shapes_are_there():
    assert set(PUBLISHED) <= set(SHAPES)
