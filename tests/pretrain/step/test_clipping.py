import math

import pytest
import torch
from torch import Tensor, nn

from pretrain.step.clipping import Clipping


def parameters(scale: float, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Return parameters of ones with random gradients."""
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.ones(shape)) for shape in ((30, 20), (70,), (1,))]
    for each in made:
        each.grad = scale * torch.randn(each.shape, generator=generator).to(dtype).to(each.dtype)
    return made


def stepped(made: list[nn.Parameter], clip_norm: float) -> list[Tensor]:
    """Return the first moments after one clipped step: a tenth of the clipped gradients."""
    optimizer = torch.optim.AdamW(made, lr=1e-3, fused=True)
    clipping = Clipping(optimizer, clip_norm, shared=False)
    clipping.tame([p.grad for p in made if p.grad is not None])
    optimizer.step()
    return [optimizer.state[p]["exp_avg"] for p in made]


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_clipping_is_clip_grad_norms_to_1e_6(clip_norm: float, scale: float):
    theirs = parameters(scale)
    if clip_norm:
        torch.nn.utils.clip_grad_norm_(theirs, clip_norm)
    moments = stepped(parameters(scale), clip_norm)
    for moment, parameter in zip(moments, theirs, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(moment, 0.1 * parameter.grad, rtol=2e-6, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_element_leaves_weights_moments_and_count_as_they_were(bad: float):
    made = parameters(1.0)
    optimizer = torch.optim.AdamW(made, lr=1e-3, fused=True)
    gradients = [p.grad for p in made if p.grad is not None]
    clipping = Clipping(optimizer, 1.0, shared=False)
    clipping.tame(gradients)
    optimizer.step()
    before = [t.clone() for p in made for t in (p.detach(), *optimizer.state[p].values())]
    gradients[1][3] = bad
    tamed = clipping.tame(gradients)
    optimizer.step()
    after = [t for p in made for t in (p.detach(), *optimizer.state[p].values())]
    assert tamed.skipped == 1
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_norm_of_bf16_gradients_is_taken_in_fp32():
    gradients = [torch.full((100_000,), 1e-2, dtype=torch.bfloat16)]
    norm = Clipping(torch.optim.AdamW(parameters(1.0)), 1.0, shared=False).tame(gradients).norm
    assert norm.dtype == torch.float32
    assert float(norm) == pytest.approx(float(gradients[0][0]) * math.sqrt(100_000), rel=1e-3)
