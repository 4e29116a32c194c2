import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.model import GPT, GPTConfig, initialise
from pretrain.step.recomputation import MODES

CONFIG = GPTConfig(
    layers=2, heads=2, channels=32, context=16, vocabulary=200, padded_vocabulary=256, dropout=0.1
)
TOKENS = torch.randint(200, (2, 17), generator=torch.Generator().manual_seed(0))


class Products(TorchDispatchMode):
    """Counts matrix products and attentions, and activations of GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.dear = self.cheap = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        self.dear += name in {"mm", "addmm", "_scaled_dot_product_flash_attention_for_cpu"}
        self.cheap += name == "gelu"
        return func(*args, **(kwargs or {}))


def backward(mode: str) -> tuple[Tensor, list[Tensor], Products]:
    """Return loss, gradients, and what was computed in the backward pass."""
    model = GPT(CONFIG, recompute=mode)
    initialise(model, 0)
    torch.manual_seed(7)
    loss = model(TOKENS[:, :-1], TOKENS[:, 1:])
    with Products() as counted:
        loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None], counted


@pytest.mark.parametrize("mode", MODES)
def test_no_bit_depends_on_what_is_computed_again_dropout_included(mode: str):
    loss, gradients, _ = backward(mode)
    expected_loss, expected, _ = backward("none")
    assert torch.equal(loss, expected_loss)
    assert len(gradients) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))


def test_selective_repeats_what_is_cheap_and_full_everything():
    none, selective, full = (backward(mode)[2] for mode in MODES)
    # Each of 2 layers has 4 products and an attention; without dropout's p the attention has its own kernel.
    assert (none.cheap, selective.cheap, full.cheap) == (0, 2, 2)
    assert selective.dear == none.dear
    assert full.dear >= none.dear + 2 * 4
