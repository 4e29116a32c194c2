"""Compare the reader with those of others, in tokens per CPU second, from the page cache.

usage: python benchmarks/reader.py [MEGATOKENS] [ROUNDS] [RESULT.json]     (256 and 3 by default)

Every contender reads the same tokens, in the order that it would train in, and hands out int64 tensors of
16 sequences of 1025 tokens (nanoGPT: 1024 and 1024). The contenders take turns, each in a process of its
own that counts the CPU seconds of all its threads while it reads, from its second batch on; the median over
the rounds is shown. There are more tokens than our reader keeps in memory: every block is read anew.
Contenders whose package is not installed (mosaicml-streaming, litdata) are left out. All keep the memory
that they free, as the trainer does on a CPU (pretrain/step/heap.py). Ours compares every block with its
digest; no other hashes anything.
"""

import importlib.util
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

T, MICRO, BATCH, SEED = 1024, 16, 512, 7

# Each program defines `batches(folder)`, which yields tensors for ever or until its data ends.
OURS = """
import torch
from pretrain.batch import BatchPlan
from pretrain.stream.data import Batches
from pretrain.stream.sources import DataConfig, opened_sources, training_data
def batches(folder):
    data = DataConfig(index=f"{folder}/ours", sequence_tokens=1024)
    share = 512 // RANKS
    sources, order = training_data(opened_sources(data), data, batch_sequences=512, seed=7, share=share)
    plan = BatchPlan(512, RANKS, share // 16, 16)
    where = dict(rank=0, first_sequence=0, prefetch=3, device=torch.device("cpu"))
    for step in Batches(sources, order, plan=plan, **where):
        yield from step.micro_batches
"""
_NANOGPT = """
import numpy as np, torch
def batches(folder):
    while True:
        data = np.memmap(f"{folder}/train.bin", dtype=np.uint16, mode="r")
        ix = torch.randint(len(data) - 1024, (16,))
        x = torch.stack([torch.from_numpy((data[i:i+1024]).astype(np.int64)) for i in ix])
        y = torch.stack([torch.from_numpy((data[i+1:i+1+1024]).astype(np.int64)) for i in ix])
        yield x
"""
_WEBDATASET = """
import glob, numpy as np, torch, webdataset as wds
def batches(folder):
    urls = sorted(glob.glob(f"{folder}/wds-ENTRY/*.tar"))
    while True:
        data = wds.WebDataset(urls, shardshuffle=len(urls), seed=7).decode().to_tuple("npy")
        if ENTRY == 1:
            for (rows,) in data.shuffle(1000).batched(16):
                yield torch.from_numpy(np.stack(list(rows)).astype(np.int64))
        else:
            for (rows,) in data.shuffle(4):
                for part in np.split(rows, len(rows) // 16):
                    yield torch.from_numpy(part.astype(np.int64))
"""
STREAMING = """
import numpy as np, torch
from streaming import StreamingDataset
def batches(folder):
    data = StreamingDataset(local=f"{folder}/mds", shuffle=True, shuffle_seed=7, batch_size=16)
    while True:
        rows = []
        for sample in data:
            rows.append(sample["tokens"])
            if len(rows) == 16:
                yield torch.from_numpy(np.stack(rows).astype(np.int64))
                rows = []
"""
LITDATA = """
import torch
from litdata import StreamingDataset, TokensLoader
def batches(folder):
    data = StreamingDataset(f"{folder}/litdata", item_loader=TokensLoader(block_size=1025), shuffle=True)
    while True:
        rows = []
        for row in data:
            rows.append(row)
            if len(rows) == 16:
                yield torch.stack(rows).long()
                rows = []
"""
_MEASURE = """
import sys, time, torch
torch.set_num_threads(1)
source = batches(sys.argv[1])
next(source)
began, tokens, wanted = time.process_time(), 0, int(sys.argv[2])
for batch in source:
    tokens += batch.numel()
    if tokens >= wanted:
        break
print("RESULT", tokens / (time.process_time() - began) / 1e6, flush=True)
import os; os._exit(0)
"""
# Name: (program, package that it needs).
_CONTENDERS = {
    "ours, one rank": (OURS.replace("RANKS", "1"), "torch"),
    "ours, 1 of 8 ranks": (OURS.replace("RANKS", "8"), "torch"),
    "webdataset, 256 sequences per entry": (_WEBDATASET.replace("ENTRY", "256"), "webdataset"),
    "webdataset, 1 sequence per entry": (_WEBDATASET.replace("ENTRY", "1"), "webdataset"),
    "nanoGPT, memmap": (_NANOGPT, "torch"),
    "MosaicML streaming": (STREAMING, "streaming"),
    "litdata, TokensLoader": (LITDATA, "litdata"),
}
_WRITE = {
    "ours": """
import sys, json, numpy as np
sys.path.insert(0, "benchmarks")
from reader import write_ours
write_ours(sys.argv[1])
""",
    "wds": """
import sys, numpy as np, webdataset as wds
folder, entry = sys.argv[1], int(sys.argv[2])
rows = np.lib.stride_tricks.sliding_window_view(np.fromfile(f"{folder}/train.bin", np.uint16), 1025)[::1024]
with wds.ShardWriter(f"{folder}/wds-{entry}/%05d.tar", maxcount=8192 // entry, verbose=0) as out:
    for n in range(0, len(rows) // entry * entry, entry):
        out.write({"__key__": f"{n:09d}", "npy": rows[n : n + entry] if entry > 1 else rows[n]})
""",
    "mds": """
import sys, numpy as np
from streaming import MDSWriter
tokens = np.fromfile(f"{sys.argv[1]}/train.bin", np.uint16)
rows = np.lib.stride_tricks.sliding_window_view(tokens, 1025)[::1024]
with MDSWriter(out=f"{sys.argv[1]}/mds", columns={"tokens": "ndarray:uint16:1025"}) as out:
    for row in rows:
        out.write({"tokens": np.ascontiguousarray(row)})
""",
    "litdata": """
import sys, numpy as np, torch
from litdata import optimize, TokensLoader
def pieces(number):
    tokens = np.fromfile(f"{sys.argv[1]}/train.bin", np.uint16)
    yield torch.from_numpy(tokens[number * 2**20 : (number + 1) * 2**20].astype(np.int32))
if __name__ == "__main__":
    count = len(np.memmap(f"{sys.argv[1]}/train.bin", np.uint16, "r")) >> 20
    optimize(pieces, list(range(count)), f"{sys.argv[1]}/litdata", num_workers=1, chunk_bytes="64MB",
             item_loader=TokensLoader(block_size=1025))
""",
}


def main(megatokens: int, rounds: int, result: Path | None) -> None:
    """Print and record millions of tokens per CPU second of each contender."""
    contenders = {n: c for n, c in _CONTENDERS.items() if importlib.util.find_spec(c[1])}
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder, megatokens)
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        for _, (name, (program, _)) in itertools.product(range(rounds), contenders.items()):
            # A whole epoch: each of our lanes opens a block with its first batch, which is not counted.
            fast = name.startswith(("ours", "webdataset, 256", "litdata"))
            wanted = megatokens * 10**6 // (1 if fast else 8)
            said = run(program + _MEASURE, folder, str(wanted))
            speeds[name].append(float(said.split("RESULT")[1].split()[0]))
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    print(f"{megatokens} million random tokens, {rounds} rounds, page cache; load {os.getloadavg()[0]:.1f}")
    for name, median in medians.items():
        ratio = medians["ours, one rank"] / median
        print(f"{name:38} {median:8.1f} Mtok/CPU-s   {ratio:6.1f}")
    if result is not None:
        facts = {"machine": platform.processor() or platform.machine(), "commit": commit(), "seed": SEED}
        facts |= {"command": sys.argv, "load": os.getloadavg(), "mtok_per_cpu_s": speeds, "median": medians}
        result.write_text(json.dumps(facts, indent=1) + "\n")


def prepare(folder: str, megatokens: int, *, webdataset: bool = True) -> None:
    """Write the tokens once for each format whose package is there."""
    import numpy as np  # noqa: PLC0415  the contenders alone need the rest

    tokens = np.random.default_rng(SEED).integers(0, 50_257, megatokens * 10**6, dtype=np.uint16)
    tokens.tofile(Path(folder, "train.bin"))
    run(_WRITE["ours"], folder)
    for entry in ("1", "256") if webdataset else ():
        Path(folder, f"wds-{entry}").mkdir()
        run(_WRITE["wds"], folder, entry)
    for name, package in (("mds", "streaming"), ("litdata", "litdata")):
        if importlib.util.find_spec(package):
            program = Path(folder, f"write_{name}.py")
            program.write_text(_WRITE[name])
            run(str(program), folder)


def write_ours(folder: str) -> None:
    """Write train.bin as a data set of ours: 64 blocks of 65,536 tokens in a shard, an index."""
    import numpy as np  # noqa: PLC0415

    from data_prep.index import shard_record  # noqa: PLC0415
    from data_prep.packing import Stream  # noqa: PLC0415
    from data_prep.shards import FORMAT  # noqa: PLC0415
    from data_prep.tokenizer import VOCABULARY_SHA256  # noqa: PLC0415
    from data_prep.writer import write_shard  # noqa: PLC0415

    tokens, place = np.fromfile(f"{folder}/train.bin", np.uint16), Path(folder, "ours")
    place.mkdir()
    stream, shards = Stream([tokens, np.array([50256], np.uint16)]), []
    for number, first in enumerate(range(0, len(tokens), 2**22)):
        part = stream.blocks(min(2**22, len(tokens) - first), 2**16)
        path, facts = place / f"train-{number:05d}.tar", {"block_tokens": 2**16, "documents": 1}
        shards.append(write_shard(path, part, **facts, scratch=place))
    train = {
        "tokens": sum(s.tokens for s in shards),
        "documents": len(shards),
        "shards": [shard_record(s) for s in shards],
    }
    index = {
        "format": FORMAT,
        "dtype": "uint16",
        "tokenizer": "gpt2",
        "vocabulary_sha256": VOCABULARY_SHA256,
        "end_of_text": 50256,
        "block_tokens": 2**16,
        "validation_rule": "none",
        "counts": {},
        "overlap": {},
        "config": {},
        "config_sha256": "",
        "splits": {"train": train, "validation": {"tokens": 0, "documents": 0, "shards": []}},
    }
    (place / "index.json").write_text(json.dumps(index))


def run(program: str, *arguments: str) -> str:
    """Run a program, text or file, to its end; return what it printed."""
    command = [sys.executable, program] if program.endswith(".py") else [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    environment |= {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def commit() -> str:
    """Return the commit that is measured."""
    said = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip()


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:3]]
    main(*numbers, *(256, 3)[len(numbers) :], Path(sys.argv[3]) if len(sys.argv) > 3 else None)
