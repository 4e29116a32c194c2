"""Products in FP8: the inner layers' three of each step, from tensors that are scaled to fill FP8's range.

One scale for a whole tensor, found anew each time, as in nanochat: +17 % of the speed of a layer of 1,664
channels, which after the loss it costs is +5 %; narrower layers become slower, and a scale for each row costs
a tenth (karpathy/nanochat, LOG of 2026-02-02). Weights and activations are E4M3, gradients E5M2 (Micikevicius
et al., 2022). The head and attention stay as they are, and so does everything that is not training.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor, nn

MULTIPLE = 16  # what the products' dimensions must be a multiple of
ADA = (8, 9)  # CUDA's compute capability from which on there is hardware for it
_TINY = 1e-12  # a tensor of zeros has a scale, too


def has_float8(device: torch.device) -> bool:
    """Say whether a device can multiply so. A CPU can, slowly, for tests."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= ADA


class Float8Linear(nn.Linear):
    """A linear layer that trains in FP8; otherwise, and in what it keeps, it is torch's own."""

    def forward(self, input: Tensor) -> Tensor:
        """Return (…, outputs) from (…, inputs); while training in bf16."""
        if not (self.training and torch.is_grad_enabled()):
            return F.linear(input, self.weight, self.bias)
        rows = _Product.apply(input.flatten(0, -2), self.weight)
        y = rows.unflatten(0, input.shape[:-1])  # pyright: ignore[reportOptionalMemberAccess]
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    """x · weightᵀ of (N, I) and (O, I), and both gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows, row_scale = quantised(x, torch.float8_e4m3fn)
        columns, column_scale = quantised(weight, torch.float8_e4m3fn)
        ctx.save_for_backward(rows, row_scale, columns, column_scale)
        ctx.dtypes = (x.dtype, weight.dtype)
        # The tensor cores may add up in less than fp32, which a gradient would feel and this does not.
        return _scaled(rows, columns.t(), row_scale, column_scale, fast=True)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor]:
        rows, row_scale, columns, column_scale = ctx.saved_tensors
        gradient, scale = quantised(outer[0], torch.float8_e5m2)
        # cuBLAS takes the left factor row by row and the right one column by column.
        x = _scaled(gradient, _by_columns(columns), scale, column_scale, fast=False)
        weight = _scaled(gradient.t().contiguous(), _by_columns(rows), scale, row_scale, fast=False)
        return x.to(ctx.dtypes[0]), weight.to(ctx.dtypes[1])


def quantised(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return `x` in an FP8 `dtype`, scaled so that its largest is the dtype's; and by what to multiply it."""
    largest = torch.finfo(dtype).max
    scale = x.detach().abs().amax().float().clamp(min=_TINY) / largest
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


def _scaled(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, *, fast: bool) -> Tensor:
    with torch.autocast(left.device.type, enabled=False):  # a CPU would multiply in bf16
        return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
            left, right, left_scale, right_scale, out_dtype=torch.bfloat16, use_fast_accum=fast
        )


def _by_columns(x: Tensor) -> Tensor:
    return x.t().contiguous().t()
