import math
from collections.abc import Callable

import pytest
import torch
from engines import (
    KINDS,
    OFFLOADED,
    OPTIM,
    PLAN,
    RATE,
    engine,
    fresh_model,
    micro_batches,
    same_bits,
    trained,
    whole_state,
)
from torch import Tensor

from pretrain.batch import BatchPlan
from pretrain.distributed import World
from pretrain.engine import settings
from pretrain.model import GPT
from pretrain.optim import adamw
from pretrain.zero import ZeroConfig


def plain_losses(
    steps: int, precision: str, batches: Callable[[int], list[Tensor]] = micro_batches
) -> tuple[list[float], GPT]:
    """Train with torch alone: accumulate, clip, step."""
    model = fresh_model()
    optimizer = adamw(model.named_parameters(), OPTIM)
    losses = []
    for step in range(steps):
        total = 0.0
        for tokens in (parts := batches(step)):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "autocast"):
                loss = model(tokens[:, :-1], tokens[:, 1:])
            (loss / len(parts)).backward()
            total += loss.item() / len(parts)
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = RATE
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, model


@pytest.mark.parametrize("stage", range(4))
def test_fifty_steps_are_those_of_a_plain_torch_loop(world: World, stage: int):
    """The tied embedding included: its two gradients meet in one tensor."""
    expected, model = plain_losses(50, "fp32")
    ours = engine(world, stage=stage)
    assert trained(ours, 50) == pytest.approx(expected, rel=1e-5)
    assert expected[-1] < expected[0] - 2, "a run in which something happens"
    state = whole_state(ours)
    ours.close()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            state[f"weight/{name}"], parameter.detach().flatten(), rtol=1e-3, atol=1e-4
        )


def growing(step: int) -> list[Tensor]:
    """One micro-batch, then two, then three: no step's number of them divides all that went before."""
    found = micro_batches(step) + micro_batches(1000 + step)
    return found[: 1 + min(2, step // 3)]


@pytest.mark.parametrize("stage", range(4))
def test_a_growing_batch_is_accumulated_as_a_plain_torch_loop_does(world: World, stage: int):
    expected, _ = plain_losses(12, "fp32", growing)
    ours = engine(world, stage=stage)
    found = [float(ours.train_step(growing(step), RATE).loss) for step in range(12)]
    assert ours.forward_seconds() > 0
    ours.close()
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", range(4))
def test_autocast_is_torchs_own_to_what_bf16_rounds(world: World, stage: int):
    expected, _ = plain_losses(20, "autocast")
    ours = engine(world, stage=stage, precision="autocast")
    assert trained(ours, 20) == pytest.approx(expected, rel=5e-3)
    ours.close()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_pure_bf16_learns_as_fp32_does(world: World, stage: int):
    expected, _ = plain_losses(30, "fp32")
    ours = engine(world, stage=stage, precision="bf16")
    assert trained(ours, 30) == pytest.approx(expected, rel=3e-2)
    ours.close()


@pytest.mark.parametrize(("precision", "stage"), KINDS)
def test_the_first_step_moves_the_weights_by_adams_first_step_and_no_more(
    world: World, precision: str, stage: int
):
    """A first step of Adam is ± the rate, whatever the gradient: a step too many would show at once."""
    ours = engine(world, stage=stage, precision=precision)
    before = whole_state(ours)
    trained(ours, 1)
    after = whole_state(ours)
    ours.close()
    moved = (after["weight/wpe.weight"] - before["weight/wpe.weight"]).abs()
    decayed = RATE * OPTIM.weight_decay * before["weight/wpe.weight"].abs()
    assert (moved <= 1.01 * (RATE + decayed)).all()
    assert moved.median() > 0.9 * RATE
    assert ours.step == 1


class Poisoned(GPT):
    """A model whose loss, and so every gradient, is not finite when told so."""

    factor = 1.0

    def forward(self, inputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        return super().forward(inputs, targets, reduction) * self.factor


@pytest.mark.parametrize(("precision", "stage", "offload"), OFFLOADED)
def test_offload_learns_what_it_learns_without(world: World, precision: str, stage: int, offload: bool):
    losses = []
    for where in (False, offload):
        ours = engine(world, stage=stage, precision=precision, offload=where)
        losses.append(trained(ours, 20))
        ours.close()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if precision == "fp32" else 2e-3)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize(("precision", "stage", "offload"), [*((*kind, False) for kind in KINDS), *OFFLOADED])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(
    world: World, precision: str, stage: int, offload: bool, factor: float
):
    model = fresh_model(kind=Poisoned)
    ours = engine(world, stage=stage, precision=precision, model=model, offload=offload)
    trained(ours, 3)
    before = whole_state(ours)
    model.factor = factor
    result = ours.train_step(micro_batches(3), RATE)
    assert result.skipped
    assert not math.isfinite(float(result.loss))
    assert same_bits(before, whole_state(ours))
    assert (ours.step, ours.adam_steps) == (4, 3)
    model.factor = 1.0
    result = ours.train_step(micro_batches(4), RATE)
    assert not result.skipped
    assert math.isfinite(float(result.gradient_norm))
    assert not same_bits(before, whole_state(ours))
    assert (ours.step, ours.adam_steps) == (5, 4)
    ours.close()


@pytest.mark.parametrize("stage", range(4))
def test_the_gradients_norm_is_the_one_before_clipping(world: World, stage: int):
    model = fresh_model()
    for tokens in micro_batches(0):
        (model(tokens[:, :-1], tokens[:, 1:]) / PLAN.accumulation).backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    ours = engine(world, stage=stage)
    assert float(ours.train_step(micro_batches(0), RATE).gradient_norm) == pytest.approx(
        float(expected), rel=1e-4
    )
    assert expected > OPTIM.clip_norm, "or it says nothing about clipping"
    ours.close()


def test_dropout_depends_on_the_step_alone(world: World):
    """So that a resumed run, which has another history of random numbers, draws the same."""
    first = engine(world, stage=1, model=fresh_model(dropout=0.3))
    losses = trained(first, 3)
    first.close()
    second = engine(world, stage=1, model=fresh_model(dropout=0.3))
    torch.rand(1000)
    assert trained(second, 2) == losses[:2]
    torch.rand(7)
    assert trained(second, 1, first=2) == losses[2:]
    second.close()


def test_dropout_differs_from_step_to_step(world: World):
    ours = engine(world, stage=1, model=fresh_model(dropout=0.3))
    losses = [float(ours.train_step(micro_batches(0), 0.0).loss) for _ in range(3)]
    assert len(set(losses)) == 3
    ours.close()


def test_the_validation_loss_is_the_models_own_sum_without_dropout(world: World):
    model = fresh_model(dropout=0.5)
    expected = model.eval()
    tokens = micro_batches(0)[0]
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    with torch.no_grad():
        total = float(expected(inputs, targets, reduction="sum"))
    ours = engine(world, stage=1, model=model.train())
    assert float(ours.loss_sum(inputs, targets)) == pytest.approx(total, rel=1e-6)
    ours.close()


def test_a_validation_between_two_steps_changes_neither(world: World):
    losses = []
    for validates in (False, True):
        ours = engine(world, stage=3)
        found = trained(ours, 2)
        if validates:
            tokens = micro_batches(9)[0]
            ours.loss_sum(tokens[:, :-1], tokens[:, 1:])
        losses.append(found + trained(ours, 2, first=2))
        ours.close()
    assert losses[0] == losses[1]


@pytest.mark.parametrize("wrong", [{"stage": 4}, {"stage": -1}, {"reduce_bucket": 0}, {"gather_bucket": 0}])
def test_a_value_out_of_range_is_refused(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=rf"zero\.{next(iter(wrong))}"):
        ZeroConfig(**wrong)


def test_deepspeed_is_told_the_plans_arithmetic_and_our_clipping():
    plan = BatchPlan(sequences=96, ranks=4, accumulation=3, micro_sequences=8)
    found = settings(ZeroConfig(stage=3), "fp32", plan, 0.7)
    assert found["train_micro_batch_size_per_gpu"] == 8
    assert found["gradient_accumulation_steps"] == 3
    assert found["gradient_clipping"] == 0.7
    assert found["zero_optimization"]["stage"] == 3
    for stage in (0, 1, 2):  # where the optimizer clips, DeepSpeed must not do it again
        assert settings(ZeroConfig(stage=stage), "fp32", plan, 0.7)["gradient_clipping"] == 0
