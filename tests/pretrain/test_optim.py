import math

import pytest
import torch
from torch import Tensor, nn

from pretrain.model import GPT, GPTConfig
from pretrain.optim import AdamWConfig, adamw

TINY = GPTConfig(layers=1, heads=2, channels=8, context=8, vocabulary=20, padded_vocabulary=24)


def test_matrices_and_embeddings_decay_and_vectors_do_not():
    model = GPT(TINY)
    optimizer = adamw(model.named_parameters(), AdamWConfig(weight_decay=0.25))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(list(model.parameters())), "every parameter once"
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or ".ln_" in f".{name}"
        assert decays[id(parameter)] == (0.0 if plain else 0.25), name


def by_hand(
    weight: Tensor, gradients: list[Tensor], config: AdamWConfig, rate: float, *, decay: float
) -> Tensor:
    """Loshchilov & Hutter, 2019, algorithm 2, in double precision."""
    weight = weight.double()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        first = config.beta1 * first + (1 - config.beta1) * gradient
        second = config.beta2 * second + (1 - config.beta2) * gradient**2
        unbiased = first / (1 - config.beta1**step)
        spread = (second / (1 - config.beta2**step)).sqrt()
        weight = weight - rate * (unbiased / (spread + config.epsilon) + decay * weight)
    return weight


def test_a_step_is_adamw_as_the_paper_has_it():
    config, rate = AdamWConfig(), 1e-2
    generator = torch.Generator().manual_seed(0)
    parameters = {
        "matrix": nn.Parameter(torch.randn(4, 3, generator=generator)),
        "vector": nn.Parameter(torch.randn(5, generator=generator)),
    }
    gradients = {
        name: [torch.randn(p.shape, generator=generator) for _ in range(5)] for name, p in parameters.items()
    }
    expected = {
        name: by_hand(p.detach(), gradients[name], config, rate, decay=0.1 if name == "matrix" else 0.0)
        for name, p in parameters.items()
    }
    optimizer = adamw(parameters.items(), config)
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in parameters.items():
            parameter.grad = gradients[name][step]
        optimizer.step()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6)


def test_before_a_rate_is_given_no_step_changes_a_weight():
    parameter = nn.Parameter(torch.ones(3, 3))
    optimizer = adamw([("w", parameter)], AdamWConfig())
    parameter.grad = torch.ones(3, 3)
    optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(3, 3))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("epsilon", -1e-8),
        ("weight_decay", math.nan),
        ("clip_norm", -1.0),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: float):
    with pytest.raises(ValueError, match=rf"optim\.{name}"):
        AdamWConfig(**{name: value})
