import math

import pytest
import torch
from torch import Tensor, nn

from pretrain.fragments import make_moments
from pretrain.optim import AdamWConfig, adamw
from pretrain.step.clipping import Clipping
from pretrain.step.muon import MuonAdamW, orthogonal

SHAPES = {"h.0.attn.c_attn.weight": (48, 16), "h.0.mlp.c_proj.weight": (16, 64), "wte.weight": (40, 16)}
CONFIG = AdamWConfig(matrices="muon", clip_norm=0.5, momentum_warmup_steps=4)
RATE, STEPS = 1e-2, 8


def parameters() -> dict[str, nn.Parameter]:
    chance = torch.Generator().manual_seed(0)
    made = {name: nn.Parameter(torch.randn(shape, generator=chance)) for name, shape in SHAPES.items()}
    return {**made, "h.0.ln_1.bias": nn.Parameter(torch.randn(16, generator=chance))}


def gradients(step: int) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(p.shape, generator=chance) for name, p in parameters().items()}


def give(made: dict[str, nn.Parameter], step: int) -> list[Tensor]:
    given = gradients(step)
    for name, parameter in made.items():
        parameter.grad = given[name]
    return list(given.values())


def ready(made: dict[str, nn.Parameter]) -> torch.optim.AdamW:
    optimizer = adamw(made.items(), CONFIG)
    for parameter in made.values():
        make_moments(optimizer, parameter, steps=0)
    return optimizer


def stepped(optimizer: torch.optim.AdamW, clipping: Clipping, made: dict[str, nn.Parameter], step: int):
    for group in optimizer.param_groups:
        group["lr"] = RATE
        if "momentum" in group:
            group["momentum"] = CONFIG.momentum_at(step)
    tamed = clipping.tame(give(made, step))
    optimizer.step()
    return tamed


def test_every_step_is_torchs_own_muon_for_matrices_and_adamw_for_the_rest():
    ours, theirs = parameters(), parameters()
    optimizer = ready(ours)
    clipping = Clipping(optimizer, CONFIG.clip_norm, shared=False)
    matrices = [p for name, p in theirs.items() if name.startswith("h.") and p.dim() == 2]
    muon = torch.optim.Muon(matrices, lr=RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    groups = [
        {"params": [theirs["wte.weight"]], "weight_decay": 0.1},
        {"params": [theirs["h.0.ln_1.bias"]], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95))
    for step in range(STEPS):
        give(theirs, step)
        torch.nn.utils.clip_grad_norm_(theirs.values(), CONFIG.clip_norm)
        muon.param_groups[0]["momentum"] = CONFIG.momentum_at(step)
        muon.step()
        adam.step()
        stepped(optimizer, clipping, ours, step)
        for name in ours:
            # Clipping rounds otherwise in the last place, and bf16 may see it.
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=2e-4, msg=name)


def test_a_gradient_that_is_not_finite_changes_nothing_of_it():
    made = parameters()
    optimizer = ready(made)
    clipping = Clipping(optimizer, CONFIG.clip_norm, shared=False)
    stepped(optimizer, clipping, made, 0)
    before = [t.clone() for p in made.values() for t in (p.detach(), *optimizer.state[p].values())]
    clipping.tame([math.nan * each for each in give(made, 1)])
    for parameter in made.values():
        assert parameter.grad is not None
        parameter.grad.fill_(math.nan)
    optimizer.step()
    after = [t for p in made.values() for t in (p.detach(), *optimizer.state[p].values())]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64)])
def test_the_update_has_the_directions_of_the_gradient_and_singular_values_near_1(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrix).float()
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ found @ right.T  # diagonal if the singular vectors are the same
    assert (inside - inside.diagonal().diag()).abs().max() < 0.05
    assert ((inside.diagonal() > 0.5) & (inside.diagonal() < 1.4)).all()


def test_muon_takes_the_blocks_matrices_and_leaves_embeddings_and_vectors():
    made = parameters()
    optimizer = adamw(made.items(), CONFIG)
    assert isinstance(optimizer, MuonAdamW)
    muon = [group for group in optimizer.param_groups if "momentum" in group]
    assert [id(p) for p in muon[0]["params"]] == [
        id(made["h.0.attn.c_attn.weight"]),
        id(made["h.0.mlp.c_proj.weight"]),
    ]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(made)


def test_the_momentum_rises_in_a_straight_line_and_stays():
    assert [CONFIG.momentum_at(step) for step in (0, 2, 4, 99)] == pytest.approx([0.85, 0.90, 0.95, 0.95])
    assert AdamWConfig(momentum_warmup_steps=0).momentum_at(0) == 0.95
