import torch
from torch import Tensor, nn

from pretrain.fragments import make_moments
from pretrain.optim import AdamWConfig, adamw
from pretrain.step.clipping import Clipping

RATE = 1e-2


def by_hand(weight: Tensor, gradients: list[Tensor], *, decay: float) -> Tensor:
    """AdamW in double precision, with the decay masked as Chen et al., 2025, write it."""
    weight = weight.double()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.95 * second + 0.05 * gradient**2
        update = (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
        weight = weight - RATE * (update + decay * weight * (update * weight > 0))
    return weight


def test_a_step_decays_only_where_the_update_goes_the_same_way():
    chance = torch.Generator().manual_seed(0)
    start = torch.randn(40, 30, generator=chance)
    gradients = [torch.randn(40, 30, generator=chance) for _ in range(5)]
    parameter = nn.Parameter(start.clone())
    optimizer = adamw([("w", parameter)], AdamWConfig(cautious=True, weight_decay=0.5))
    make_moments(optimizer, parameter, steps=0)
    for gradient in gradients:
        for group in optimizer.param_groups:
            group["lr"] = RATE
        parameter.grad = gradient.clone()
        optimizer.step()
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    expected = by_hand(start, gradients, decay=0.5)
    torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(expected, by_hand(start, gradients, decay=0.0), rtol=0, atol=1e-3)


def test_a_gradient_that_is_not_finite_decays_nothing():
    parameter = nn.Parameter(torch.ones(4))
    optimizer = adamw([("w", parameter)], AdamWConfig(cautious=True))
    optimizer.param_groups[0]["params"], optimizer.param_groups[1]["params"] = [parameter], []
    make_moments(optimizer, parameter, steps=0)
    optimizer.param_groups[0]["lr"] = RATE
    parameter.grad = torch.tensor([1.0, torch.nan, 1.0, torch.inf])
    assert Clipping(optimizer, 1.0, shared=False).tame([parameter.grad]).skipped == 1
    optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(4))
