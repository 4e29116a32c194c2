import pytest
import torch
from engines import engine, fresh_model, trained
from torch import Tensor, nn

from pretrain.distributed import World
from pretrain.step.float8 import Float8Linear, quantised

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def restored(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is left of `x` after FP8, as a plain product would see it."""
    values, scale = quantised(x, dtype)
    return values.float() * scale


def relative(found: Tensor, expected: Tensor) -> float:
    exact = expected.detach().float()
    return float((found.detach().float() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("size", [1e-20, 1e-3, 1.0, 3e4])
def test_a_tensor_fills_the_range_whatever_its_size(dtype: torch.dtype, size: float):
    x = normal(64, 32, seed=0, scale=size)
    values, scale = quantised(x, dtype)
    if size > 1e-12:
        assert values.float().abs().max() == torch.finfo(dtype).max
    half_a_step = 2**-4 if dtype == E4M3 else 2**-3
    large = x.abs() > 1e-3 * x.abs().max()
    error = (values.float() * scale - x).abs() / x.abs()
    assert size < 1e-12 or error[large].max() <= half_a_step


def test_zeros_stay_zeros():
    values, scale = quantised(torch.zeros(4, 4), E4M3)
    assert values.float().count_nonzero() == 0
    assert scale > 0


def test_a_layer_and_its_gradients_are_the_products_of_what_fp8_leaves():
    layer = Float8Linear(64, 48)
    with torch.no_grad():
        layer.weight.copy_(normal(48, 64, seed=1, scale=0.02))
        layer.bias.copy_(normal(48, seed=2))
    x = normal(2, 16, 64, seed=3).requires_grad_()
    outer = normal(2, 16, 48, seed=4, scale=1e-4).bfloat16()
    y = layer(x)
    y.backward(outer)
    assert y.shape == (2, 16, 48)
    assert y.dtype == torch.bfloat16
    weight, gradient = restored(layer.weight, E4M3), restored(outer.flatten(0, 1), E5M2)
    rows = restored(x.detach().flatten(0, 1), E4M3)
    assert relative(y, (rows @ weight.t()).view(2, 16, 48) + layer.bias) < 2**-7
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    assert relative(x.grad.flatten(0, 1), gradient @ weight) < 2**-7
    assert relative(layer.weight.grad, gradient.t() @ rows) < 2**-7
    torch.testing.assert_close(layer.bias.grad, outer.float().sum((0, 1)), rtol=2**-6, atol=1e-6)
    assert layer.weight.grad.dtype == torch.float32


def test_what_does_not_train_is_torchs_own():
    layer, plain = Float8Linear(16, 8), nn.Linear(16, 8)
    plain.load_state_dict(layer.state_dict())
    x = normal(3, 16, seed=5)
    layer.eval()
    assert torch.equal(layer(x), plain(x))
    layer.train()
    with torch.no_grad():
        assert torch.equal(layer(x), plain(x))


@pytest.mark.parametrize(("precision", "stage"), [("autocast", 0), ("autocast", 1), ("bf16", 2), ("bf16", 3)])
def test_a_model_learns_as_it_does_in_bf16(world: World, precision: str, stage: int):
    losses = {}
    for linear in (nn.Linear, Float8Linear):
        ours = engine(world, stage=stage, precision=precision, model=fresh_model(linear=linear))
        losses[linear] = trained(ours, 20)
        ours.close()
    assert losses[Float8Linear] != losses[nn.Linear], "FP8 was used"
    assert losses[Float8Linear] == pytest.approx(losses[nn.Linear], rel=0.01)
    assert losses[Float8Linear][-1] < losses[Float8Linear][0] - 1


def test_recomputing_changes_no_bit(world: World):
    found = {}
    for recompute in ("none", "selective", "full"):
        ours = fresh_model(linear=Float8Linear)
        ours.recompute = recompute
        trainer = engine(world, stage=1, precision="autocast", model=ours)
        found[recompute] = trained(trainer, 3)
        trainer.close()
    assert found["selective"] == found["none"]
    assert found["full"] == found["none"]


def test_its_weights_are_a_plain_models():
    ours, plain = fresh_model(linear=Float8Linear), fresh_model()
    assert ours.state_dict().keys() == plain.state_dict().keys()
    x = torch.randint(50, (1, 8))
    assert torch.equal(ours.eval().logits(x), plain.eval().logits(x))
