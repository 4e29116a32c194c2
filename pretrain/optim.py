"""AdamW, and which weights decay."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pretrain.model import EMBEDDINGS

_SCALES_LOGITS = "ln_f."


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


def adamw(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: AdamWConfig, width_ratio: float = 1.0
) -> torch.optim.AdamW:
    """Return an AdamW whose learning rate the caller sets each step: what it sets × a group's `lr_scale`.

    Matrices and embeddings decay; biases and LayerNorm gains do not, as in nanoGPT and llm.c. At another
    width than the learning rate was found for, matrices inside the layers and the last LayerNorm, which
    scales the logits, learn slower by `width_ratio`: muP (Yang et al., 2022, table 8, Adam). Their decay,
    lr × weight_decay, stays as it is.
    """
    named = list(named_parameters)
    groups = [
        _group([p for _, p in named if p.dim() >= 2], config.weight_decay),
        _group([p for _, p in named if p.dim() < 2], 0.0),
    ]
    if width_ratio != 1:
        hidden = [p for name, p in named if p.dim() >= 2 and name not in EMBEDDINGS]
        groups = [
            _group([p for name, p in named if name in EMBEDDINGS], config.weight_decay),
            _group(hidden, config.weight_decay * width_ratio, 1 / width_ratio),
            _group([p for name, p in named if p.dim() < 2 and not name.startswith(_SCALES_LOGITS)], 0.0),
            _group([p for name, p in named if name.startswith(_SCALES_LOGITS)], 0.0, 1 / width_ratio),
        ]
    # The fused kernel: one launch per group on a GPU, and the fastest on a CPU too.
    return torch.optim.AdamW(
        groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
    )


def _group(parameters: list[nn.Parameter], weight_decay: float, lr_scale: float = 1.0) -> dict[str, Any]:
    return {"params": parameters, "weight_decay": weight_decay, "lr_scale": lr_scale}
