"""Loss and gradient of a softmax in one visit to each row of logits, in place: a Triton kernel.

As in llm.c's fused classifier, the gradient overwrites the logits, so that the largest tensor of a GPT-2
step exists once, in bf16, and is read twice and written once: 6 bytes per logit, where log-softmax in fp32
moves some 36. The rows' padding takes no part and comes out as zeros.
"""

import torch
import triton  # pyright: ignore[reportMissingImports] (it comes with torch's CUDA build)
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

_MOST_COLUMNS = 8192  # that a program holds at once: 64 registers in each of 128 threads, 4 warps' worth
_WARPS = 8


def softmax_loss_(logits: Tensor, targets: Tensor, *, vocabulary: int, ignored: int, wanted: bool) -> Tensor:
    """Return each row's cross-entropy in nats, fp32 (N,); if `wanted`, put the gradient in place of `logits`.

    logits is contiguous (N, V') with V' ≥ vocabulary, in bf16 or fp32; targets int64 (N,). A row whose
    target is `ignored` has a loss of zero and no gradient; a target outside the vocabulary gives NaN.
    """
    rows, padded = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = min(_MOST_COLUMNS, triton.next_power_of_2(padded))
    _softmax_loss[(rows,)](  # pyright: ignore[reportIndexIssue]
        logits,
        targets,
        losses,
        vocabulary,
        padded,
        IGNORED=ignored,
        WANTED=wanted,
        BLOCK=block,
        num_warps=_WARPS,
    )
    return losses


@triton.jit
def _softmax_loss(  # noqa: PLR0917 - Triton passes them by position
    logits,
    targets,
    losses,
    vocabulary,
    padded,
    IGNORED: tl.constexpr,  # noqa: N803 (Triton's custom for what is known when it compiles)
    WANTED: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)  # 65,536 rows × 50,304 columns are more than 32 bits can count
    logits += row * padded
    target = tl.load(targets + row)
    columns = tl.arange(0, BLOCK)
    largest = -float("inf")
    total = 0.0
    for first in range(0, vocabulary, BLOCK):
        inside = first + columns < vocabulary
        values = tl.load(logits + first + columns, mask=inside, other=-float("inf")).to(tl.float32)
        risen = tl.maximum(largest, tl.max(values, 0))
        total = total * tl.exp(largest - risen) + tl.sum(tl.exp(values - risen), 0)
        largest = risen
    counts = target != IGNORED
    valid = (target >= 0) & (target < vocabulary)
    right = tl.load(logits + target, mask=valid, other=float("nan")).to(tl.float32)
    tl.store(losses + row, tl.where(counts, tl.log(total) + largest - right, 0.0))
    if WANTED:
        scale = tl.where(counts, 1.0 / total, 0.0)
        for first in range(0, padded, BLOCK):
            at = first + columns
            values = tl.load(logits + at, mask=at < vocabulary, other=-float("inf")).to(tl.float32)
            gradient = tl.exp(values - largest) * scale
            gradient = tl.where((at == target) & counts, gradient - 1.0, gradient)
            tl.store(logits + at, gradient.to(logits.dtype.element_ty), mask=at < padded)
