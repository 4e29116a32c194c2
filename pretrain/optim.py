"""Which weights AdamW or Muon updates, and which decay."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pretrain.model import EMBEDDINGS
from pretrain.step.cautious import CautiousAdamW
from pretrain.step.muon import MuonAdamW

_SCALES_LOGITS = "ln_f."
_MATRICES = ("adamw", "muon")
MUON_KNOWS_NO_WIDTHS = "optim.matrices=muon has no rule for another width; use model.mup=false"


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW (Loshchilov & Hutter, 2019) with the values of GPT-3's appendix B, and clipping."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0  # of the gradient over all parameters; 0 does not clip
    cautious: bool = False  # decay only where the update goes the same way
    matrices: str = "adamw"  # what updates the blocks' matrices: adamw, or muon
    momentum: float = 0.95  # Muon's, at last
    momentum_start: float = 0.85  # and at first, rising over
    momentum_warmup_steps: int = 300

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2", "momentum", "momentum_start"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} {getattr(self, name)} is not in [0, 1)")
        for name in ("epsilon", "weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:  # not a number either
                raise ValueError(f"optim.{name} {getattr(self, name)} is negative")
        if self.matrices not in _MATRICES:
            raise ValueError(f"optim.matrices {self.matrices!r} is not one of: {', '.join(_MATRICES)}")
        if self.momentum_warmup_steps < 0:
            raise ValueError(f"optim.momentum_warmup_steps {self.momentum_warmup_steps} is negative")
        if self.cautious and self.matrices == "muon":
            raise ValueError("optim.cautious is AdamW's alone; use optim.matrices=adamw, or cautious=false")

    def momentum_at(self, step: int) -> float:
        """Return Muon's momentum in step `step` (from 0).

        It rises linearly: 0.013 lower validation loss than 0.95 from the start, after 3,200 steps
        (KellerJordan/modded-nanogpt, 2024-11-06).
        """
        done = min(1.0, step / self.momentum_warmup_steps) if self.momentum_warmup_steps else 1.0
        return self.momentum_start + (self.momentum - self.momentum_start) * done


def adamw(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: AdamWConfig, width_ratio: float = 1.0
) -> torch.optim.AdamW:
    """Return an optimizer whose learning rate the caller sets each step: what it sets × a group's `lr_scale`.

    Matrices and embeddings decay; biases and LayerNorm gains do not, as in nanoGPT and llm.c. At another
    width than the learning rate was found for, matrices inside the layers and the last LayerNorm, which
    scales the logits, learn slower by `width_ratio`: muP (Yang et al., 2022, table 8, Adam). Their decay,
    lr × weight_decay, stays as it is. Muon, whose "momentum" the caller sets too, is for the blocks'
    matrices; the embeddings, of which one is the head, stay with AdamW.
    """
    named = list(named_parameters)
    if config.matrices == "muon" and width_ratio != 1:
        raise ValueError(MUON_KNOWS_NO_WIDTHS)
    muon = [p for name, p in named if config.matrices == "muon" and p.dim() >= 2 and name not in EMBEDDINGS]
    taken = {id(p) for p in muon}
    others = [(name, p) for name, p in named if id(p) not in taken]
    groups = [
        _group([p for _, p in others if p.dim() >= 2], config.weight_decay),
        _group([p for _, p in others if p.dim() < 2], 0.0),
    ]
    if muon:
        groups.append({**_group(muon, config.weight_decay), "momentum": config.momentum_at(0)})
    if width_ratio != 1:
        hidden = [p for name, p in named if p.dim() >= 2 and name not in EMBEDDINGS]
        groups = [
            _group([p for name, p in named if name in EMBEDDINGS], config.weight_decay),
            _group(hidden, config.weight_decay * width_ratio, 1 / width_ratio),
            _group([p for name, p in named if p.dim() < 2 and not name.startswith(_SCALES_LOGITS)], 0.0),
            _group([p for name, p in named if name.startswith(_SCALES_LOGITS)], 0.0, 1 / width_ratio),
        ]
    kind = MuonAdamW if muon else CautiousAdamW if config.cautious else torch.optim.AdamW
    # The fused kernel: one launch per group on a GPU, and the fastest on a CPU too.
    return kind(groups, lr=0.0, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True)


def _group(parameters: list[nn.Parameter], weight_decay: float, lr_scale: float = 1.0) -> dict[str, Any]:
    return {"params": parameters, "weight_decay": weight_decay, "lr_scale": lr_scale}
