"""The norms of a step, beside those of a plain torch loop on the same gradients."""

import pytest
import torch
from engines import RATE, engine, fresh_model, micro_batches, trained
from torch import nn

from pretrain.distributed import World
from pretrain.fragments import Fragment
from pretrain.norms import Norms, NormsConfig, kept_of_moments, layer_of
from pretrain.optim import AdamWConfig

BETA1 = 0.9


def model_and_optimizer() -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.ModuleDict({"wte": nn.Linear(4, 3), "h": nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 2)])})
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(BETA1, 0.95))


def step(model: nn.Module, optimizer: torch.optim.AdamW, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def fragments(model: nn.Module, optimizer: torch.optim.AdamW) -> list[Fragment]:
    """Return two pieces of every parameter, as two ranks would hold them."""
    found = []
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        whole = [t.detach().view(-1) for t in (parameter, state["exp_avg"], state["exp_avg_sq"])]
        for start, end in ((0, 2), (2, parameter.numel())):
            found.append(Fragment(name, start, *(tensor[start:end] for tensor in whole)))
    return found


def norm(tensors: list[torch.Tensor]) -> float:
    return float(torch.cat([each.flatten() for each in tensors]).double().norm())


def test_the_norms_are_those_of_the_weights_gradients_moments_and_updates(world: World):
    model, optimizer = model_and_optimizer()
    step(model, optimizer, 1)
    names = [name for name, _ in model.named_parameters()]
    norms = Norms(NormsConfig(every=2), world, parameters=names, kept=lambda *_: BETA1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    norms.before(1, fragments(model, optimizer))
    step(model, optimizer, 2)
    norms.after(fragments(model, optimizer), skipped=False)
    told = norms.told()
    assert norms.told() == {}, "told once"
    for layer in ("wte", "h.0", "h.1"):
        mine = [
            (p, old) for (name, p), old in zip(model.named_parameters(), before, strict=True) if layer in name
        ]
        expected = {
            "param": norm([p.detach() for p, _ in mine]),
            "update": norm([p.detach() - old for p, old in mine]),
            "moment": norm([optimizer.state[p]["exp_avg"] for p, _ in mine]),
            "grad": norm([p.grad for p, _ in mine if p.grad is not None]),
        }
        found = {kind: told[f"layers/{layer}/{kind}_norm"] for kind in expected}
        assert found == pytest.approx(expected, rel=1e-5)
    after = [parameter.detach() for parameter in model.parameters()]
    changes = [now - old for now, old in zip(after, before, strict=True)]
    assert told["optim/param_norm"] == pytest.approx(norm(after), rel=1e-6)
    assert told["optim/update_ratio"] == pytest.approx(norm(changes) / norm(after), rel=1e-5)


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_the_norms_of_gradients_are_those_of_autograd_whatever_updates_the_matrices(
    matrices: str, world: World
):
    """In the third step Muon's momentum is 0.87, on its way from 0.85 to 0.95."""
    optim = AdamWConfig(matrices=matrices, clip_norm=0.5, momentum_warmup_steps=10)
    model, twin = fresh_model(), fresh_model()
    trainer = engine(world, stage=0, model=model, optim=optim)
    try:
        trained(trainer, 2)
        twin.load_state_dict(model.state_dict())
        names = [name for name, _ in model.named_parameters()]
        kept = kept_of_moments(model.named_parameters(), optim)
        norms = Norms(NormsConfig(every=3), world, parameters=names, kept=kept)
        norms.before(2, trainer.fragments())
        trainer.train_step(micro_batches(2), RATE)
        norms.after(trainer.fragments(), skipped=False)
        told = norms.told()
    finally:
        trainer.close()
    for tokens in micro_batches(2):
        (twin(tokens[:, :-1], tokens[:, 1:]) / 2).backward()
    nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    for layer in ("wte", "wpe", "h.0", "h.1", "ln_f"):
        mine = [
            p.grad for name, p in twin.named_parameters() if layer_of(name) == layer and p.grad is not None
        ]
        assert told[f"layers/{layer}/grad_norm"] == pytest.approx(norm(mine), rel=1e-4)


@pytest.mark.parametrize(("every", "done", "skipped"), [(0, 1, False), (3, 0, False), (2, 1, True)])
def test_no_norm_is_taken_unasked_or_of_a_skipped_step(every: int, done: int, skipped: bool, world: World):
    model, optimizer = model_and_optimizer()
    step(model, optimizer, 1)
    norms = Norms(NormsConfig(every=every), world, parameters=["wte.weight"], kept=lambda *_: BETA1)
    norms.before(done, fragments(model, optimizer))
    norms.after(fragments(model, optimizer), skipped=skipped)
    assert norms.told() == {}


def test_a_block_is_a_layer_and_so_is_all_that_stands_alone():
    assert layer_of("h.11.attn.c_attn.weight") == "h.11"
    assert layer_of("wte.weight") == "wte"
