"""Small data sets whose every token is known, and what a rank reads of them."""

import json
from pathlib import Path

import numpy as np
import torch

from data_prep.index import Split, shard_record
from data_prep.shards import FORMAT
from data_prep.writer import write_shard
from pretrain.batch import BatchPlan
from pretrain.stream.data import Batches
from pretrain.stream.mixing import Mixture
from pretrain.stream.sequences import Sequences
from pretrain.stream.sources import DataConfig, opened_sources, training_data

CPU = torch.device("cpu")
T = 16


def made(folder: Path, shards: list[list[int]], *, block_tokens: int = 64, seed: int = 0) -> Path:
    """Write a data set whose shards have blocks of so many tokens; return its index.

    No two sequences are alike: the tokens count through the vocabulary, from another place in each block.
    """
    folder.mkdir(parents=True)
    records, token = [], seed
    for number, sizes in enumerate(shards):
        blocks = []
        for size in sizes:
            blocks.append((np.arange(token, token + size + 1) * 7919 % 50_000).astype(np.uint16))
            token += size
        place = folder / f"train-{number:05d}.tar"
        records.append(write_shard(place, blocks, block_tokens=block_tokens, documents=1, scratch=folder))
    train = Split(sum(s.tokens for s in records), len(records), tuple(records))
    content = {
        "format": FORMAT, "dtype": "uint16", "tokenizer": "gpt2", "vocabulary_sha256": "0",
        "end_of_text": 50256, "block_tokens": block_tokens, "validation_rule": "none", "counts": {},
        "overlap": {}, "config": {}, "config_sha256": "",
        "splits": {
            "train": {"tokens": train.tokens, "documents": train.documents,
                      "shards": [shard_record(shard) for shard in records]},
            "validation": {"tokens": 0, "documents": 0, "shards": []},
        },
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(content))
    return folder / "index.json"


def opened(
    data: DataConfig, batch: int, share: int | None = None, seed: int = 7
) -> tuple[list[Sequences], Mixture]:
    return training_data(opened_sources(data), data, batch_sequences=batch, seed=seed, share=share)


def run(
    data: DataConfig,
    batch: int,
    *,
    ranks: int,
    rank: int,
    micro: int,
    steps: int,
    first: int = 0,
    prefetch: int = 2,
) -> tuple[list[np.ndarray], int]:
    """Return a rank's share of `steps` batches, and how many bytes it read for them."""
    sources, mixture = opened(data, batch, batch // ranks)
    plan = BatchPlan(batch, ranks, batch // ranks // micro, micro)
    source = Batches(
        sources, mixture, plan=plan, rank=rank, first_sequence=first * batch, prefetch=prefetch, device=CPU
    )
    try:
        found = [torch.cat(next(source).micro_batches).numpy() for _ in range(steps)]
    finally:
        source.close()
    return found, sum(each.bytes_read for each in sources)
