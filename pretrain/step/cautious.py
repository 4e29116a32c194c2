"""Weight decay only where it goes the way of the update: AdamW with cautious decay.

L. Chen et al., 2025 (arXiv 2510.12402): an element decays in a step in which the update, too, takes it
towards zero. AdamW's update has the sign of the new first moment, so the decay is taken before the fused
kernel runs, which then has none left to do. Element by element, hence the same at every ZeRO stage.
"""

from typing import Any

import torch


class CautiousAdamW(torch.optim.AdamW):
    """AdamW whose decay is masked by the sign of the update."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update all parameters that have a gradient; leave everything if `found_inf` is 1."""
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            self._decay(group)
            group["weight_decay"] = 0.0
        super().step(closure)
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay

    def _decay(self, group: dict[str, Any]) -> None:
        amount, beta = group["lr"] * group["weight_decay"], group["betas"][0]
        scale, bad = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if not amount:
            return
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            gradient = parameter.grad if scale is None else parameter.grad / scale
            update = self.state[parameter]["exp_avg"].lerp(gradient, 1 - beta)
            # A NaN compares as false, so a gradient that is not finite leaves the weight as it is where
            # it is not; what is left is undone by the factor of zero.
            shrunk = torch.where(update * parameter > 0, amount * parameter, 0.0)
            parameter.sub_(shrunk if bad is None else shrunk * (1 - bad))
