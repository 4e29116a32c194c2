"""How large each layer's weights, gradients, moments and updates are; rarely, as it copies the state."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from pretrain.distributed import World, summed
from pretrain.fragments import Fragment
from pretrain.optim import AdamWConfig, adamw

# What a parameter's first moment keeps of itself in a step, from 0: β₁, or Muon's momentum.
Kept: TypeAlias = Callable[[str, int], float]
_KINDS: tuple[str, ...] = ("param", "update", "moment", "grad")


@dataclass(frozen=True)
class NormsConfig:
    """How often the norms are taken."""

    every: int = 0  # steps; 0 never

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"norms.every {self.every} is negative; 0 never takes them")


class Norms:
    """Takes the norms of one step: `before` and `after` stand around it."""

    def __init__(self, config: NormsConfig, world: World, *, parameters: Iterable[str], kept: Kept) -> None:
        """Take the names of all `parameters` of the model, of which this rank may hold few."""
        self._layers = list(dict.fromkeys(map(layer_of, parameters)))
        self._every = config.every
        self._world = world
        self._kept = kept
        self._step = 0
        self._before: list[tuple[Tensor, Tensor]] | None = None
        self._metrics: dict[str, float] = {}

    def before(self, step: int, fragments: Iterable[Fragment]) -> None:
        """Remember the state if the step that follows `step` steps is one to look at."""
        if self._every and (step + 1) % self._every == 0:
            self._step = step
            self._before = [(each.weight.clone(), each.exp_avg.clone()) for each in fragments]

    def after(self, fragments: Iterable[Fragment], *, skipped: bool | Tensor) -> None:
        """Take the norms, if `before` has remembered; not of a step that changed nothing. Collective."""
        remembered, self._before = self._before, None
        if remembered is not None and not skipped:
            self._metrics = self._taken(remembered, fragments)

    def told(self) -> dict[str, float]:
        """Return the norms that were taken since the last call."""
        metrics, self._metrics = self._metrics, {}
        return metrics

    def _taken(
        self, remembered: list[tuple[Tensor, Tensor]], fragments: Iterable[Fragment]
    ) -> dict[str, float]:
        squares = {layer: dict.fromkeys(_KINDS, 0.0) for layer in self._layers}
        for (weight, moment), now in zip(remembered, fragments, strict=True):
            # Adam's first moment is m' = β₁ m + (1 − β₁) g (Kingma & Ba, 2014): g, after clipping, is in it.
            # Muon's is too, with its momentum for β₁.
            kept = self._kept(now.name, self._step)
            gradient = (now.exp_avg - kept * moment) / (1 - kept)
            of_layer = squares[layer_of(now.name)]
            for kind, tensor in zip(
                _KINDS, (now.weight, now.weight - weight, now.exp_avg, gradient), strict=True
            ):
                of_layer[kind] += float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
        return self._metrics_of(squares)

    def _metrics_of(self, squares: dict[str, dict[str, float]]) -> dict[str, float]:
        """Sum over the ranks, each of which may hold pieces of other layers, and take the roots."""
        flat = [squares[layer][kind] for layer in self._layers for kind in _KINDS]
        total = iter(summed(self._world, *flat))
        norms = {layer: {kind: next(total) ** 0.5 for kind in _KINDS} for layer in self._layers}
        whole = {kind: sum(each[kind] ** 2 for each in norms.values()) ** 0.5 for kind in _KINDS}
        metrics = {
            f"layers/{layer}/{kind}_norm": value
            for layer, each in norms.items()
            for kind, value in each.items()
        }
        metrics["optim/param_norm"] = whole["param"]
        metrics["optim/update_ratio"] = whole["update"] / whole["param"]
        return metrics


def kept_of_moments(named_parameters: Iterable[tuple[str, nn.Parameter]], config: AdamWConfig) -> Kept:
    """Return what says how much of a parameter's first moment stays in a step."""
    named = list(named_parameters)
    groups = adamw(named, config).param_groups if config.matrices == "muon" else []
    muon = {id(parameter) for group in groups if "momentum" in group for parameter in group["params"]}
    with_momentum = {name for name, parameter in named if id(parameter) in muon}
    return lambda name, step: config.momentum_at(step) if name in with_momentum else config.beta1


def layer_of(name: str) -> str:
    """Return the layer of a parameter: h.3 for h.3.attn.c_attn.weight, wte for wte.weight."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[1].isdigit() else parts[0]
