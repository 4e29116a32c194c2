"""With muP the activations move alike at every width; without it they do not; and the model stays GPT-2."""

import math
from functools import cache

import pytest
import torch

from conf import compose, typed
from conf.exits import ConfigError
from pretrain.config import TrainConfig
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.optim import AdamWConfig, adamw

WIDTHS = (64, 128, 256, 512)
BASE, HEAD = 64, 16
STEPS, RATE = 8, 0.02


def config(width: int, *, mup: bool) -> GPTConfig:
    return GPTConfig(
        layers=2,
        heads=width // HEAD,
        channels=width,
        context=16,
        vocabulary=128,
        padded_vocabulary=128,
        mup=mup,
        mup_base_channels=BASE,
    )


@cache
def movements(width: int, *, mup: bool) -> dict[str, float]:
    """Return how far a few steps move the last block's output and the logits, as root mean squares."""
    settings = config(width, mup=mup)
    model = GPT(settings)
    initialise(model, seed=1)
    optimizer = adamw(model.named_parameters(), AdamWConfig(weight_decay=0.0), settings.width_ratio)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(128, (8, 17), generator=generator)
    outputs: list[torch.Tensor] = []
    model.h[-1].register_forward_hook(lambda _, __, output: outputs.append(output.detach()))

    def seen() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            logits = model.logits(tokens[:, :-1])
        return outputs[-1], logits

    first = seen()
    for _ in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * group["lr_scale"]
        optimizer.zero_grad()
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        optimizer.step()
    moved = [
        (after - before).square().mean().sqrt().item() for before, after in zip(first, seen(), strict=True)
    ]
    return {"block": moved[0], "logits": moved[1]}


def growth(what: str, *, mup: bool) -> float:
    """Return the exponent with which the movement grows with the width, fitted over all widths."""
    points = [(math.log(width), math.log(movements(width, mup=mup)[what])) for width in WIDTHS]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


@pytest.mark.parametrize("what", ["block", "logits"])
def test_the_coordinate_check_is_flat_with_mup_and_is_not_without(what: str):
    assert abs(growth(what, mup=True)) < 0.15
    assert growth(what, mup=False) > 0.3


def test_at_the_width_that_the_learning_rate_was_found_for_nothing_changes():
    plain, scaled = GPT(config(BASE, mup=False)), GPT(config(BASE, mup=True))
    initialise(plain, seed=3)
    initialise(scaled, seed=3)
    for (name, ours), (_, theirs) in zip(plain.named_parameters(), scaled.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    groups = adamw(scaled.named_parameters(), AdamWConfig(), 1.0).param_groups
    assert [group["lr_scale"] for group in groups] == [1.0, 1.0]


def test_every_parameter_learns_in_one_group_at_the_rate_of_its_kind():
    settings = config(256, mup=True)
    model = GPT(settings)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {}
    for group in adamw(
        model.named_parameters(), AdamWConfig(weight_decay=0.1), settings.width_ratio
    ).param_groups:
        for parameter in group["params"]:
            found[names.pop(id(parameter))] = (group["lr_scale"], group["weight_decay"])
    assert names == {}
    assert found["wte.weight"] == found["wpe.weight"] == (1.0, 0.1)
    assert found["h.0.attn.c_attn.weight"] == found["h.1.mlp.c_proj.weight"] == (0.25, 0.4)
    assert found["h.0.ln_1.weight"] == found["h.0.mlp.c_fc.bias"] == (1.0, 0.0)
    assert found["ln_f.weight"] == found["ln_f.bias"] == (0.25, 0.0)


def test_a_scaled_model_is_exported_as_the_plain_gpt_2_that_it_is():
    """Nothing is multiplied on the way forward, so the weights alone say everything."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from pretrain.export import hugging_face_config, hugging_face_weights

    settings = config(128, mup=True)
    model = GPT(settings).eval()
    initialise(model, seed=2)
    theirs = GPT2LMHeadModel(GPT2Config(**hugging_face_config(settings))).eval()
    theirs.load_state_dict(hugging_face_weights(model), strict=False)
    tokens = torch.randint(128, (2, 16), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert torch.allclose(model.logits(tokens), theirs(tokens).logits, atol=1e-6)


def test_a_base_width_below_one_is_refused():
    with pytest.raises(ConfigError, match=r"model\.mup_base_channels must be at least 1"):
        typed(
            TrainConfig,
            compose("train", ["steps=1", "run_dir=R", "data.index=I", "model.mup_base_channels=0"]),
        )
