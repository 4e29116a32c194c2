"""The head and its loss together, so that the logits of a whole batch never exist at once.

For GPT-2's vocabulary the logits are the largest tensor by far: 8 sequences of 1024 tokens make
1.6 GB in fp32, which a naive loss reads and writes a dozen times. Here a chunk of rows at a time
passes through product, softmax and gradient while it lies in the cache; the gradients are ready
when the loss is, as in llm.c's fused classifier. On a CPU that halves the time of the head.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor

IGNORED = -1  # a target with this value takes no part in the loss

# 128 × 50,257 fp32 logits are 26 MB, as are 256 in bf16. Measured on an EPYC core, 2048 rows of 128 channels,
# fp32: 0.93 CPU seconds with 128 rows, 0.99 with 64 or 512, 1.85 for all at once in torch's own functions.
_CHUNK_BYTES = 26 << 20
# So many rows have their softmax in fp32 at a time: 6.4 MB, a fifth faster than a whole chunk.
_SOFTMAX_ROWS = 32
# On a GPU one chunk is the fastest (four cost 6 % of this operation, sixteen 21 %), until it needs memory
# that a micro-batch could use: 8 GiB are the bf16 logits of 85,000 tokens.
_MOST_LOGIT_BYTES = 8 * 2**30

# Triton comes with torch's CUDA build. Without it, as on a CPU, torch's own functions do the same.
_KERNEL = torch.cuda.is_available() and importlib.util.find_spec("triton") is not None
if _KERNEL:
    from pretrain.step.softmax_kernel import softmax_loss_


def head_loss(x: Tensor, weight: Tensor, targets: Tensor, *, vocabulary: int) -> Tensor:
    """Return the summed cross-entropy in nats, fp32, of the logits x · weightᵀ.

    x is (N, C); weight (V', C) with V' ≥ vocabulary, of which only the first `vocabulary` rows count;
    targets int64 (N,). Under autocast the products are taken in its dtype, the softmax in fp32.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return _head(x, weight, targets, vocabulary, dtype, wanted)[0]


# A custom operator, so that torch.compile sees one call and not a loop over chunks.
@torch.library.custom_op("pretrain::head_loss", mutates_args=())
def _head(  # noqa: PLR0917 - operators take their arguments by position
    x: Tensor, weight: Tensor, targets: Tensor, vocabulary: int, dtype: torch.dtype, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the summed loss and, if `wanted`, its gradients for x and weight (else empty ones)."""
    with torch.autocast(x.device.type, enabled=False):
        rows, used = x.to(dtype), weight.to(dtype)
        if not _KERNEL:
            used = used[:vocabulary]
        total = torch.zeros((), dtype=torch.float32, device=x.device)
        x_gradient = torch.empty_like(rows) if wanted else rows.new_empty(0)
        # Summed over all chunks, so in full precision whatever the products are in.
        weight_gradient = torch.zeros(weight.shape if wanted else 0, dtype=torch.float32, device=x.device)
        step = _chunk_rows(rows, used)
        memory = rows.new_empty(min(step, len(rows)), len(used))
        for first in range(0, len(rows), step):
            chunk = slice(first, min(first + step, len(rows)))
            logits = torch.mm(rows[chunk], used.t(), out=memory[: chunk.stop - first])
            if _KERNEL:
                losses = softmax_loss_(  # pyright: ignore[reportPossiblyUnboundVariable]
                    logits, targets[chunk], vocabulary=vocabulary, ignored=IGNORED, wanted=wanted
                )
            else:
                losses = _softmax_loss_(logits, targets[chunk], wanted)
            total += losses.sum()
            if not wanted:
                continue
            x_gradient[chunk] = logits @ used  # each has its gradient in its place now
            into = weight_gradient[: len(used)]
            if dtype == torch.float32:
                into.addmm_(logits.t(), rows[chunk])
            else:
                into += logits.t() @ rows[chunk]
    # An operator may not return what it was given, nor the same tensor twice; these are all its own.
    return total, x_gradient.to(x.dtype), weight_gradient.to(weight.dtype)


def _chunk_rows(rows: Tensor, used: Tensor) -> int:
    """Return how many rows pass at a time."""
    if rows.device.type == "cpu":
        fitting = _CHUNK_BYTES // (len(used) * rows.element_size())
        return max(1, fitting // _SOFTMAX_ROWS) * _SOFTMAX_ROWS
    return max(1, _MOST_LOGIT_BYTES // (len(used) * (rows.element_size() if _KERNEL else 4)))


@_head.register_fake
def _(  # noqa: PLR0917
    x: Tensor, weight: Tensor, targets: Tensor, vocabulary: int, dtype: torch.dtype, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    total = x.new_empty((), dtype=torch.float32)
    if wanted:
        return total, torch.empty_like(x), torch.empty_like(weight)
    return total, x.new_empty(0), weight.new_empty(0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
    x_gradient, weight_gradient = ctx.saved_tensors
    return x_gradient * outer[0], weight_gradient.mul_(outer[0]), None, None, None, None


_head.register_autograd(_backward, setup_context=_keep)


def _softmax_loss_(logits: Tensor, targets: Tensor, wanted: bool) -> Tensor:
    """Return the losses (n,) of logits (n, V), fp32; put their gradient in their place, if wanted."""
    memory = logits.new_empty(_SOFTMAX_ROWS, logits.shape[1], dtype=torch.float32)
    tiles = zip(logits.split(_SOFTMAX_ROWS), targets.split(_SOFTMAX_ROWS), strict=True)
    return torch.cat([_tile_loss_(tile, told, memory[: len(tile)], wanted) for tile, told in tiles])


def _tile_loss_(logits: Tensor, targets: Tensor, memory: Tensor, wanted: bool) -> Tensor:
    counted = (targets != IGNORED).unsqueeze(1)
    column = targets.clamp(min=0).unsqueeze(1)
    exact = logits.float()
    # The most probable token's probability is 1 / (the sum of all exponentials, its own being 1).
    below = exact.amax(dim=1, keepdim=True) - exact.gather(1, column)
    probabilities = torch.softmax(exact, dim=1, out=memory)
    losses = below - probabilities.amax(dim=1, keepdim=True).log()
    if wanted:
        gradient = probabilities.mul_(counted)
        gradient.scatter_add_(1, column, -counted.float())
        logits.copy_(gradient)
    return (losses * counted).squeeze(1)
