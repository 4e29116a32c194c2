"""The head and its loss together, so that the logits of a whole batch never exist at once.

For GPT-2's vocabulary the logits are the largest tensor by far: 8 sequences of 1024 tokens make
1.6 GB in fp32, which a naive loss reads and writes a dozen times. Here a chunk of rows at a time
passes through product, softmax and gradient while it lies in the cache; the gradients are ready
when the loss is, as in llm.c's fused classifier. On a CPU that halves the time of the head.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

IGNORED = -1  # a target with this value takes no part in the loss

# 128 × 50,257 fp32 logits are 26 MB. Measured on an EPYC core, 2048 rows of 128 channels: 0.93 CPU
# seconds with 128 rows, 0.99 with 64 or 512, 1.85 for all at once in torch's own functions.
_CHUNK_ROWS = 128


def head_loss(x: Tensor, weight: Tensor, targets: Tensor, *, vocabulary: int) -> Tensor:
    """Return the summed cross-entropy in nats, fp32, of the logits x · weightᵀ.

    x is (N, C); weight (V', C) with V' ≥ vocabulary, of which only the first `vocabulary` rows count;
    targets int64 (N,). Under autocast the products are taken in its dtype, the softmax in fp32.
    """
    if x.device.type == "cpu":
        return _ChunkedLoss.apply(x, weight, targets, vocabulary, torch.is_grad_enabled())  # pyright: ignore[reportReturnType]
    logits = F.linear(x, weight)[:, :vocabulary].float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")


class _ChunkedLoss(torch.autograd.Function):
    """Loss and gradients of the head, a chunk of rows at a time."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes them by position
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, vocabulary: int, wanted: bool
    ) -> Tensor:
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else x.dtype
        rows, used = x.to(dtype), weight[:vocabulary].to(dtype)
        total = torch.zeros((), dtype=torch.float32)
        x_gradient = torch.empty_like(rows) if wanted else None
        # Summed over all chunks, so in full precision whatever the products are in.
        weight_gradient = torch.zeros(weight.shape) if wanted else None
        with torch.autocast("cpu", enabled=False):
            for first in range(0, len(rows), _CHUNK_ROWS):
                chunk = slice(first, first + _CHUNK_ROWS)
                loss, gradient = _softmax_loss(rows[chunk] @ used.t(), targets[chunk], wanted)
                total += loss
                if x_gradient is None or weight_gradient is None:
                    continue
                gradient = gradient.to(dtype)
                x_gradient[chunk] = gradient @ used
                if dtype == torch.float32:
                    weight_gradient[:vocabulary].addmm_(gradient.t(), rows[chunk])
                else:
                    weight_gradient[:vocabulary] += gradient.t() @ rows[chunk]
        if x_gradient is not None and weight_gradient is not None:
            ctx.save_for_backward(x_gradient.to(x.dtype), weight_gradient.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x_gradient, weight_gradient = ctx.saved_tensors
        return x_gradient * outer[0], weight_gradient * outer[0], None, None, None


def _softmax_loss(logits: Tensor, targets: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """Return the summed loss of logits (n, V) and, if wanted, its gradient in place of them, fp32."""
    logits = logits.float()
    counted = (targets != IGNORED).unsqueeze(1)
    column = targets.clamp(min=0).unsqueeze(1)
    largest = logits.amax(dim=1, keepdim=True)
    right = logits.gather(1, column)
    exponentials = logits.sub_(largest).exp_()
    sums = exponentials.sum(dim=1, keepdim=True)
    loss = ((sums.log() + largest - right) * counted).sum()
    if wanted:
        gradient = exponentials.mul_(counted / sums)
        gradient.scatter_add_(1, column, -counted.float())
        return loss, gradient
    return loss, exponentials
