"""AdamW, and which weights decay."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW (Loshchilov & Hutter, 2019) with the values of GPT-3's appendix B, and clipping."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0  # of the gradient over all parameters; 0 does not clip

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} {getattr(self, name)} is not in [0, 1)")
        for name in ("epsilon", "weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:  # not a number either
                raise ValueError(f"optim.{name} {getattr(self, name)} is negative")


def adamw(named_parameters: Iterable[tuple[str, nn.Parameter]], config: AdamWConfig) -> torch.optim.AdamW:
    """Return an AdamW whose learning rate the caller sets each step.

    Matrices and embeddings decay; biases and LayerNorm gains do not, as in nanoGPT and llm.c.
    """
    parameters = [parameter for _, parameter in named_parameters]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    # The fused kernel: one launch per group on a GPU, and the fastest on a CPU too.
    return torch.optim.AdamW(
        groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
    )
