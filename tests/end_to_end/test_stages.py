"""Every ZeRO stage on two ranks trains as a plain torch loop on one process does."""

import numpy as np
import pytest
import torch
from trainer_job import Job, losses, smoke

from data_prep.shards import read_index
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.schedule import ScheduleConfig, learning_rate
from pretrain.stream.data import DataConfig, training_order

pytestmark = pytest.mark.slow

STEPS, SEQUENCES, TOKENS = 50, 8, 64


@pytest.fixture(scope="module")
def plain_losses(shards):
    """The losses of a loop without DeepSpeed, ranks, accumulation or our optimizer's construction."""
    index = read_index(shards)
    data = DataConfig(index=str(shards), sequence_tokens=TOKENS)
    sequences, order = training_order(index, data, batch_sequences=SEQUENCES, seed=1337)
    config = GPTConfig(layers=2, heads=2, channels=32, context=64)
    model = GPT(config)
    initialise(model, seed=1337)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    schedule = ScheduleConfig(shape="cosine", peak=1e-3, warmup_steps=5, final_fraction=0.1)
    measured = []
    for step in range(STEPS):
        places = [order.place(step * SEQUENCES + n) for n in range(SEQUENCES)]
        rows = np.stack([sequences.row(place.block, place.row) for place in places]).astype(np.int64)
        tokens = torch.from_numpy(rows)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, STEPS, schedule)
        logits = model.logits(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        measured.append(loss.item())
    return measured


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_losses_agree_with_a_plain_torch_loop(shards, tmp_path, plain_losses, stage):
    run_dir = tmp_path / "run"
    rare = ["validation.every=0", "checkpoint.every=0"]
    Job(run_dir, *smoke(shards, run_dir, f"zero=stage{stage}", f"steps={STEPS}", *rare)).succeeded()
    ours = [loss for _, loss in sorted(losses(run_dir).items())]
    assert ours == pytest.approx(plain_losses, rel=1e-5)
