"""Muon for the matrices of the blocks: how a momentum is turned into an update whose directions weigh alike.

K. Jordan et al., 2024 (kellerjordan.github.io/posts/muon): the momentum's singular values are driven to
about 1 by five Newton-Schulz steps in bf16. The update is scaled as J. Liu et al., 2025 (arXiv 2502.16982,
section 2.2) do, so that AdamW's rates and decay suit it. torch.optim.Muon computes the same, to the bit, but
cannot skip a step on the device, and so waits for it.

The momentum is kept as `exp_avg`, and `exp_avg_sq` stays zero: a checkpoint holds a Muon run as any other.
"""

import math
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; chosen by its author for a steep slope at 0
_ITERATIONS = 5
_EPSILON = 1e-7
_ADAMW_RMS = 0.2  # of an entry of AdamW's update, as Liu et al. measured it


class MuonAdamW(torch.optim.AdamW):
    """AdamW, and Muon for the groups that have a "momentum". Every matrix must be whole: ZeRO-0 alone."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update all parameters that have a gradient; leave everything if `found_inf` is 1."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if "momentum" not in group]
        super().step(closure)
        self.param_groups = groups
        for group in groups:
            if "momentum" in group:
                for parameter in group["params"]:
                    self._orthogonal_step(parameter, group)

    def _orthogonal_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        if parameter.grad is None:
            return
        state, momentum, rate = self.state[parameter], group["momentum"], group["lr"]
        scale, bad = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        gradient = parameter.grad if scale is None else parameter.grad / scale
        moved = state["exp_avg"].lerp(gradient, 1 - momentum)
        update = orthogonal(gradient.lerp(moved, momentum))  # Nesterov's
        decayed = parameter * (1 - rate * group["weight_decay"])
        changed = decayed.add_(update, alpha=-rate * _ADAMW_RMS * math.sqrt(max(parameter.shape)))
        if bad is None:
            bad = torch.zeros((), device=parameter.device)
        # A NaN times zero is a NaN; chosen element by element it is left behind.
        state["exp_avg"].copy_(torch.where(bad > 0, state["exp_avg"], moved))
        parameter.copy_(torch.where(bad > 0, parameter, changed))
        state["step"] += 1 - bad


def orthogonal(matrix: Tensor) -> Tensor:
    """Return the bf16 matrix with `matrix`'s singular vectors and singular values of 0.7 to 1.2."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.bfloat16()
    if tall:
        x = x.T
    x = x / x.norm().clamp(min=_EPSILON)  # so that no singular value is above 1
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
