import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from pretrain import cross_entropy
from pretrain.cross_entropy import IGNORED, head_loss

C, V, PADDED = 16, 50, 64
CHUNK = 64  # rows of fp32 logits, two tiles of the softmax


def case(rows: int, *, seed: int = 0, ignored: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return features (N, C), weight (V', C) and targets (N,), of which the last `ignored` do not count."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, C, generator=generator, requires_grad=True)
    weight = torch.randn(PADDED, C, generator=generator, requires_grad=True)
    targets = torch.randint(V, (rows,), generator=generator)
    targets[rows - ignored :] = IGNORED
    return x, weight, targets


def reference(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(x, weight)[:, :V].float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


def both(x: Tensor, weight: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return (loss, gradient of x, gradient of weight) of ours and of torch's, with an outer factor of 3."""
    results = []
    for function in (lambda *given: head_loss(*given, vocabulary=V), reference):
        loss = function(x, weight, targets)
        gradients = torch.autograd.grad(3 * loss, (x, weight))
        results.append((loss, *gradients))
    return results


@pytest.mark.parametrize("rows", [1, 31, 32, 33, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
@pytest.mark.parametrize("ignored", [0, 1])
def test_the_loss_and_its_gradients_are_torchs_own(rows: int, ignored: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cross_entropy, "_CHUNK_BYTES", CHUNK * V * 4)
    ours, theirs = both(*case(rows, ignored=ignored))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_batch_in_which_nothing_counts_has_no_loss_and_no_gradient():
    x, weight, targets = case(5, ignored=5)
    loss = head_loss(x, weight, targets, vocabulary=V)
    gradients = torch.autograd.grad(loss, (x, weight))
    assert loss == 0
    assert all(gradient.count_nonzero() == 0 for gradient in gradients)


def test_padding_takes_no_part_in_the_loss_and_gets_no_gradient():
    x, weight, targets = case(40)
    with torch.no_grad():
        weight[V:] = 1e4
    loss = head_loss(x, weight, targets, vocabulary=V)
    (gradient,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(loss, reference(x, weight, targets))
    assert gradient[V:].count_nonzero() == 0


def test_logits_in_the_thousands_do_not_overflow():
    x, weight, targets = case(20)
    ours, theirs = both((1000 * x).detach().requires_grad_(), weight, targets)
    for one, other in zip(ours, theirs, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-2)


def test_under_autocast_it_differs_from_torchs_by_no_more_than_bf16_rounds():
    x, weight, targets = case(300, ignored=10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = both(x, weight, targets)
    exact = both(x, weight, targets)[1]
    assert ours[0].dtype == torch.float32
    for one, other, truth in zip(ours, theirs, exact, strict=True):
        assert one.dtype == truth.dtype == torch.float32
        error, allowed = (one - truth).norm(), (other - truth).norm()
        assert error <= 1.5 * allowed + 1e-6 * truth.norm(), "as good as torch's own under autocast"
        assert error <= 2**-7 * truth.norm()


def test_pure_bf16_gives_gradients_in_bf16_and_a_loss_in_fp32():
    x, weight, targets = case(200)
    x, weight = (each.detach().bfloat16().requires_grad_() for each in (x, weight))
    ours, theirs = both(x, weight, targets)
    assert [each.dtype for each in ours] == [torch.float32, torch.bfloat16, torch.bfloat16]
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).float().norm() <= 2**-7 * other.float().norm()


def test_without_gradients_the_loss_is_the_same_and_none_are_made():
    x, weight, targets = case(300)
    with torch.no_grad():
        loss = head_loss(x, weight, targets, vocabulary=V)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, head_loss(x, weight, targets, vocabulary=V).detach(), rtol=0, atol=0)


def test_a_target_in_the_padding_or_beyond_is_an_error_and_not_a_loss():
    x, weight, targets = case(4)
    targets[2] = V
    with pytest.raises((RuntimeError, IndexError)):
        head_loss(x, weight, targets, vocabulary=V)


def test_the_same_input_gives_the_same_bits_twice():
    first, second = (both(*case(500))[0] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
