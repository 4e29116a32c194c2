"""What a resume costs where an epoch is a trillion tokens: the index, the order of an epoch, the first batch.

usage: python benchmarks/resume.py [ROUNDS] [RESULT.json]     (12 by default)

The data set is whole but for its content: index.json names 15,258,790 blocks of 65,536 tokens, the last of
each of 14,902 shards shorter, and the shards are sparse files of zeros (2 TB in name) with true digests. Each
round is a process of its own: 1 of 8 ranks of a run of 512 sequences of 1,024 tokens a batch goes to a random
sequence of one of the first three epochs. The first batch is where its sequences lie, and their blocks read
and checked. Memory is what it takes beyond the imports, at its highest; `cpu` are CPU seconds of the process,
the rest is wall time.
"""

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BLOCKS, BLOCK_TOKENS, SHARD_BLOCKS, LAST_TOKENS = 15_258_790, 65_536, 1024, 40_000
BATCH, RANKS, T = 512, 8, 1024


def measure(folder: str, seed: int) -> dict[str, float]:
    """Return the figures of one resume."""
    import numpy as np  # noqa: PLC0415 - what comes before is no part of the figure
    import torch  # noqa: PLC0415

    from pretrain.batch import BatchPlan  # noqa: PLC0415
    from pretrain.stream.data import Batches  # noqa: PLC0415
    from pretrain.stream.sources import DataConfig, opened_sources, training_data  # noqa: PLC0415

    chance, before = random.Random(seed), _peak_mebibytes()
    data = DataConfig(index=folder, sequence_tokens=T)
    began, spent = time.perf_counter(), time.process_time()
    sources = opened_sources(data)
    opened, opened_cpu = time.perf_counter(), time.process_time()
    sequences, mixture = training_data(sources, data, batch_sequences=BATCH, seed=1337, share=BATCH // RANKS)
    made, order, epoch = time.process_time(), mixture.orders[0], chance.randrange(3)
    target = epoch * order.sequences_per_epoch + chance.randrange(order.sequences_per_epoch // 2)
    order.epochs_of(np.arange(BATCH), target // BATCH)  # deals every epoch up to that one
    dealt, started = time.process_time(), time.perf_counter()
    where = {"rank": 3, "first_sequence": target, "prefetch": 1, "device": torch.device("cpu")}
    batches = Batches(sequences, mixture, plan=BatchPlan(BATCH, RANKS, 4, 16), **where)
    first = next(batches)
    answered, answered_cpu = time.perf_counter(), time.process_time()
    batches.close()
    assert sum(len(part) for part in first.micro_batches) == BATCH // RANKS
    return {
        "index_ms": 1000 * (opened - began),
        "prepare_cpu_s": made - opened_cpu,
        "epoch_order_cpu_s": (dealt - made) / (epoch + 1),
        "epochs_dealt": epoch + 1,
        "first_batch_ms": 1000 * (answered - started),
        "first_batch_cpu_ms": 1000 * (answered_cpu - dealt),
        "whole_resume_s": answered - began,
        "whole_resume_cpu_s": answered_cpu - spent,
        "peak_mib": _peak_mebibytes() - before,
    }


def write(folder: Path) -> None:
    """Write the index, and shards that hold nothing."""
    import numpy as np  # noqa: PLC0415

    from data_prep.shards import DIGEST, FORMAT, Shard, block_digest, digest_of_table  # noqa: PLC0415
    from data_prep.tokenizer import VOCABULARY_SHA256  # noqa: PLC0415

    def shard(number: int, blocks: int) -> dict:
        digests = [hashes[BLOCK_TOKENS]] * (blocks - 1) + [hashes[LAST_TOKENS]]
        content = np.array(digests, DIGEST).tobytes()
        facts = {"name": f"train-{number:05d}.tar", "sha256": "0" * 64, "documents": 1}
        facts |= {"tokens": (blocks - 1) * BLOCK_TOKENS + LAST_TOKENS, "digests": digest_of_table(content)}
        table = Shard(bytes=1 << 62, block_tokens=BLOCK_TOKENS, **facts).table
        facts["bytes"] = table + len(content)
        with (folder / facts["name"]).open("wb") as file:
            file.truncate(table)
            file.seek(table)
            file.write(content)
        return facts

    hashes = {count: block_digest(bytes(2 * (count + 1))) for count in (BLOCK_TOKENS, LAST_TOKENS)}
    tokens, shards = 0, -(-BLOCKS // SHARD_BLOCKS)
    with (folder / "index.json").open("w") as file:
        facts = {
            "format": FORMAT, "dtype": "uint16", "tokenizer": "gpt2", "vocabulary_sha256": VOCABULARY_SHA256,
            "end_of_text": 50256, "block_tokens": BLOCK_TOKENS, "validation_rule": "none", "counts": {},
            "overlap": {}, "config": {}, "config_sha256": "",
        }  # fmt: skip
        file.write(json.dumps(facts)[:-1] + ', "splits": {"train": {"shards": [')
        for number in range(shards):
            record = shard(number, min(SHARD_BLOCKS, BLOCKS - number * SHARD_BLOCKS))
            tokens += record["tokens"]
            file.write(", " * (number > 0) + json.dumps(record))
        file.write(f'], "tokens": {tokens}, "documents": {shards}}}, ')
        file.write('"validation": {"tokens": 0, "documents": 0, "shards": []}}}')


def main(rounds: int, result: Path | None) -> None:
    """Print the median, the lowest and the highest of each figure."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        size = Path(folder, "index.json").stat().st_size
        print(f"index.json: {size / 1e6:.1f} MB")
        found = [one(folder, seed) for seed in range(rounds)]
    figures = {
        name: [statistics.median(values), min(values), max(values)]
        for name in found[0]
        for values in [[each[name] for each in found]]
    }
    for name, (middle, low, high) in figures.items():
        print(f"{name:18s} {middle:9.3f}  ({low:.3f} to {high:.3f})")
    if result is not None:
        import record  # noqa: PLC0415 - brings torch, which is no part of the figure

        content = {"rounds": rounds, "index_bytes": size}
        print(record.write(result.stem, content | {"median_low_high": figures}, result.parent))


def one(folder: str, seed: int) -> dict[str, float]:
    """Return what a process of its own measures."""
    command = [sys.executable, __file__, "--one", folder, str(seed)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 12, Path(sys.argv[2]) if sys.argv[2:] else None)
