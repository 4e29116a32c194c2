"""Training as a page of torch does it: no DeepSpeed, no ranks, no optimizer of ours."""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pretrain.model import GPT, GPTConfig, initialise
from pretrain.schedule import ScheduleConfig, learning_rate
from pretrain.stream.sources import DataConfig, opened_sources, training_data

SEQUENCES, TOKENS = 8, 64


@functools.cache
def plain_losses(
    shards: Path,
    steps: int,
    *,
    pieces: int = 1,
    sizes: tuple[int, ...] | None = None,
    rows: tuple[int, ...] | None = None,
) -> list[float]:
    """Return the losses of the smoke experiment with 8 sequences a step, or with `sizes`, in whole `rows`.

    The rate is the one after as many sequences in steps of 8. With more `pieces` the gradient is the sum over
    so many parts of the batch, as ranks would add it.
    """
    data = DataConfig(index=str(shards), sequence_tokens=TOKENS)
    (sequences,), order = training_data(opened_sources(data), data, batch_sequences=SEQUENCES, seed=1337)
    model = GPT(GPTConfig(layers=2, heads=2, channels=32, context=TOKENS))
    initialise(model, seed=1337)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    schedule = ScheduleConfig(shape="cosine", peak=1e-3, warmup_steps=5, final_fraction=0.1)
    measured, first = [], 0
    sizes = sizes or (SEQUENCES,) * steps
    for size, length in zip(sizes, rows or (TOKENS,) * len(sizes), strict=True):
        places = [order.place(first + n) for n in range(size)]
        taken = np.stack([sequences.row(place.block, place.row) for place in places]).astype(np.int64)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(first / SEQUENCES, sum(sizes) / SEQUENCES, schedule)
        optimizer.zero_grad()
        loss = 0.0
        for tokens in torch.from_numpy(taken).chunk(pieces):
            part = _mean_loss(model, tokens, length) / pieces
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        first += size
        measured.append(loss)
    return measured


def _mean_loss(model: GPT, tokens: Tensor, length: int) -> Tensor:
    """Cut each sequence into inputs and targets of `length`, one after the other."""
    pairs = zip(tokens[:, :-1].split(length, 1), tokens[:, 1:].split(length, 1), strict=True)
    losses = [torch.nn.functional.cross_entropy(model.logits(x).flatten(0, 1), y.flatten()) for x, y in pairs]
    return torch.stack(losses).mean()
