"""Compare the Triton kernel with torch, in Triton's interpreter or on a GPU; print one line of JSON per case.

A program of its own, because the interpreter must be chosen before Triton is first imported, and because a
process that has imported Triton starts DeepSpeed half a second later.
"""

import itertools
import json
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

INSTALLED_ASIDE = Path(sys.prefix) / "triton"
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    sys.path.append(str(INSTALLED_ASIDE))

from pretrain.step.softmax_kernel import softmax_loss_  # noqa: E402 (after the interpreter is chosen)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IGNORED = -1


def main() -> None:
    shapes = [(1, 50, 64), (5, 64, 64), (7, 97, 128), (3, 20_000, 20_032)]
    for (rows, vocabulary, padded), dtype, scale in itertools.product(
        shapes, (torch.float32, torch.bfloat16), (1.0, 1000.0)
    ):
        generator = torch.Generator().manual_seed(rows)
        logits = (scale * torch.randn(rows, padded, generator=generator)).to(dtype).to(DEVICE)
        targets = torch.randint(vocabulary, (rows,), generator=generator).to(DEVICE)
        targets[rows // 2 : rows // 2 + 1] = IGNORED if rows > 1 else targets[0]
        print(json.dumps(compared(logits, targets, vocabulary)), flush=True)
    outside = torch.zeros(2, 64, device=DEVICE)
    losses = softmax_loss_(
        outside, torch.tensor([50, 1], device=DEVICE), vocabulary=50, ignored=IGNORED, wanted=False
    )
    print(json.dumps({"outside": losses.isnan().tolist()}))


def compared(logits: torch.Tensor, targets: torch.Tensor, vocabulary: int) -> dict[str, object]:
    """Return how far loss and gradient are from torch's, in fp32 from the same logits."""
    exact = logits.float()[:, :vocabulary].requires_grad_()
    expected = F.cross_entropy(exact, targets, ignore_index=IGNORED, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), exact)
    ours, untouched = logits.clone(), logits.clone()
    losses = softmax_loss_(ours, targets, vocabulary=vocabulary, ignored=IGNORED, wanted=True)
    same = softmax_loss_(untouched, targets, vocabulary=vocabulary, ignored=IGNORED, wanted=False)
    off = (ours[:, :vocabulary].float() - gradient).abs()
    return {
        "dtype": str(logits.dtype),
        "shape": list(logits.shape),
        "loss_error": float(((losses - expected) / expected.abs().clamp(min=1)).abs().max()),
        "gradient_error": float(off.max()),
        "gradient_error_relative": float((off / gradient.abs().clamp(min=1e-4)).max()),
        "padding": int(ours[:, vocabulary:].count_nonzero()),
        "loss_alone_differs": bool((losses != same).any()) or not torch.equal(untouched, logits),
    }


if __name__ == "__main__":
    main()
