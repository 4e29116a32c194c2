"""What the backward pass computes a second time instead of keeping it in memory, block by block.

Kept per token and layer, bf16: none 32·C bytes and the attention's; selective 18·C, the products' and the
attention's results, so that only LayerNorm, GELU and sums are repeated (as llm.c's -r 1 and 2); full 2·C,
the block's input alone, for a third more work. No result depends on the choice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

MODES = ("none", "selective", "full")

_aten = torch.ops.aten
# What is dear to compute and is therefore kept; everything else is memory traffic that a compiler fuses.
_KEPT = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten._scaled_mm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
]


def through(block: Callable[..., Tensor], x: Tensor, *more: object, mode: str) -> Tensor:
    """Return block(x, *more), with as much of it kept for the backward pass as `mode` says, one of MODES."""
    if mode == "none" or not torch.is_grad_enabled():
        return block(x, *more)
    how: dict[str, Any] = {}
    if mode == "selective":
        how["context_fn"] = partial(create_selective_checkpoint_contexts, _KEPT)
    return checkpoint(block, x, *more, use_reentrant=False, **how)  # pyright: ignore[reportReturnType]
