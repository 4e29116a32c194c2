"""Which piece of which parameter this rank holds in full precision, under every ZeRO stage.

A fragment is a flat fp32 view of a piece of one parameter and of its two Adam moments: the live
memory, so reading it is saving and writing it is loading. A set of fragments from all ranks is
the whole training state whatever the stage or the number of ranks that wrote it; DeepSpeed's own
conversion between them is silently wrong at stage 3 with two parameter groups
(docs/decisions/0003-one-portable-state.md).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


class Fragment(NamedTuple):
    """A piece of one parameter: elements start..start + len(weight) of its flattened self."""

    name: str
    start: int
    weight: Tensor  # fp32, flat
    exp_avg: Tensor  # fp32, flat
    exp_avg_sq: Tensor  # fp32, flat


def make_moments(optimizer: torch.optim.Optimizer, flat: Tensor, steps: float) -> None:
    """Give `flat` its Adam state as if `steps` steps had been taken, with moments of zero."""
    state = optimizer.state[flat]
    # The fused kernel wants its step count as an fp32 tensor beside the parameter.
    state["step"] = torch.tensor(float(steps), dtype=torch.float32, device=flat.device)
    for moment in MOMENTS:
        state[moment] = torch.zeros_like(flat, memory_format=torch.preserve_format)


def owned_flats(zero: Any, stage: int) -> list[Tensor]:
    """Return the tensors that the inner AdamW updates on this rank."""
    if stage == 0:
        return [parameter for group in zero.param_groups for parameter in group["params"]]
    return list(zero.single_partition_of_fp32_groups if stage < 3 else zero.fp32_partitioned_groups_flat)


def fragments(module: nn.Module, zero: Any, stage: int, *, rank: int, ranks: int) -> Iterator[Fragment]:
    """Yield this rank's fragments. At stage 0, where every rank holds all, its share of each."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    if stage == 0:
        yield from _replicated(names, zero, rank, ranks)
    elif stage < 3:
        yield from _partitioned_groups(names, zero)
    else:
        yield from _partitioned_parameters(names, zero, rank)


def _replicated(names: dict[nn.Parameter, str], adam: Any, rank: int, ranks: int) -> Iterator[Fragment]:
    for parameter, name in names.items():
        share = -(-parameter.numel() // ranks)
        start = min(rank * share, parameter.numel())
        size = min(share, parameter.numel() - start)
        whole = (parameter.detach(), *(adam.state[parameter][moment] for moment in MOMENTS))
        yield Fragment(name, start, *(tensor.view(-1).narrow(0, start, size) for tensor in whole))


def _partitioned_groups(names: dict[nn.Parameter, str], zero: Any) -> Iterator[Fragment]:
    """Stages 1 and 2 lay a group's parameters end to end and cut the line among the ranks."""
    for group, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        for parameter in group:
            mapping = parameter._hp_mapping
            if mapping is None:  # no part of this parameter lies in this rank's stretch
                continue
            there, here = mapping.lp_fragment_address, mapping.hp_fragment_address
            whole = (flat.detach(), *(zero.optimizer.state[flat][moment] for moment in MOMENTS))
            views = (tensor.narrow(0, here.start, here.numel) for tensor in whole)
            yield Fragment(names[parameter], there.start, *views)


def _partitioned_parameters(names: dict[nn.Parameter, str], zero: Any, rank: int) -> Iterator[Fragment]:
    """Stage 3 cuts every parameter among the ranks; the last pieces may be padding."""
    for number, group in enumerate(zero.fp16_groups):
        flat = zero.fp32_partitioned_groups_flat[number]
        for parameter in group:
            _, offset, piece = zero.grad_position[zero.get_param_id(parameter)]
            start = min(rank * piece, parameter.ds_numel)
            size = min(piece, parameter.ds_numel - start)
            whole = (flat.detach(), *(zero.optimizer.state[flat][moment] for moment in MOMENTS))
            yield Fragment(names[parameter], start, *(t.narrow(0, offset, size) for t in whole))


def publish_weights(zero: Any, stage: int) -> None:
    """Copy loaded fp32 weights into the parameters that the forward pass reads, on every rank."""
    if stage in (1, 2):
        zero.update_lp_params()
    elif stage == 3:
        zero._partition_all_parameters()
        for number in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(number)
        if zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
