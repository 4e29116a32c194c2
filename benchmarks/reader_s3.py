"""Read from an S3 server with latency and failing requests; hold every batch against the disk's.

usage: python benchmarks/reader_s3.py [MEGATOKENS] [ROUNDS] [RESULT.json]
       (16 and 3 by default; needs moto and s3fs, and for its peers mosaicml-streaming and litdata)

The server is moto, in a process of its own, behind 20 ms of latency; 1 % of the requests fail with 503. Our
reader is one of 8 ranks with a batch of 512 sequences of 1024 tokens, and each of its batches is compared.
Then it takes turns with its peers, each in a process of its own with nothing on its disk: one rank reads
an epoch of the same tokens. The server shares the machine with them.
"""

import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # with a Python that has the peers, and not ours, too
sys.path.insert(0, str(Path(__file__).parent))
from reader import LITDATA, OURS, SEED, STREAMING, commit, prepare, run

from pretrain.batch import BatchPlan
from pretrain.stream.data import Batches
from pretrain.stream.sources import DataConfig, opened_sources, training_data

LATENCY_SECONDS, FAILING = 0.020, 0.01
SEQUENCES, RANKS = 512, 8
_SERVER = """
import random, sys, time
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
inner, chance = DomainDispatcherApplication(create_backend_app), random.Random(0)
def app(environ, start):
    if environ["REQUEST_METHOD"] == "GET":
        time.sleep({latency})
        if chance.random() < {failing}:
            start("503 Slow Down", [("Content-Length", "0")])
            return [b""]
    return inner(environ, start)
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""
# The server speaks no TLS, and litdata has no setting for that.
_PLAIN = """
from litdata.streaming import downloader
downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
"""
# Name: (program as in reader.py, what it reads there, what it reads here, package).
_CONTENDERS = {
    "ours": (OURS.replace("RANKS", "1"), 'f"{folder}/ours"', '"s3://bucket/ours"', "torch"),
    "MosaicML streaming": (
        STREAMING,
        'local=f"{folder}/mds"',
        'remote="s3://bucket/mds", local=f"{folder}/cache"',
        "streaming",
    ),
    "litdata": (
        _PLAIN + LITDATA,
        'f"{folder}/litdata"',
        '"s3://bucket/litdata", cache_dir=f"{folder}/cache"',
        "litdata",
    ),
}
_MEASURE = """
import os, sys, time, torch
torch.set_num_threads(1)
began, wanted = time.perf_counter(), int(sys.argv[2])
source = batches(sys.argv[1])
next(source)
first, spent, tokens = time.perf_counter(), time.process_time(), 0
for batch in source:
    tokens += batch.numel()
    if tokens >= wanted:
        break
now, cpu = time.perf_counter(), time.process_time() - spent
print("RESULT", first - began, tokens / (now - first) / 1e6, tokens / cpu / 1e6, flush=True)
os._exit(0)
"""


def main(megatokens: int, rounds: int, result: Path | None) -> None:
    """Print the speed, and how many batches were wrong."""
    program = _SERVER.format(latency=LATENCY_SECONDS, failing=FAILING)
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert server.stdout is not None
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            prepare(folder, megatokens, webdataset=False)
            upload(folder)
            facts = measured(folder, megatokens)
            facts["one_rank"] = beside_peers(folder, megatokens, rounds)
        finally:
            server.kill()
            server.wait()
    if result is not None:
        facts |= {"commit": commit(), "command": sys.argv, "seed": SEED, "load": os.getloadavg()}
        result.write_text(json.dumps(facts, indent=1) + "\n")


def upload(folder: str) -> None:
    """Put every format that was written into the bucket."""
    import s3fs  # noqa: PLC0415  after the server's address is known

    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    for path in Path(folder).iterdir():
        for part in path.iterdir() if path.is_dir() else ():
            files.put_file(str(part), f"bucket/{path.name}/{part.name}")


def measured(folder: str, megatokens: int) -> dict:
    """Read over S3 and from the disk, as one of 8 ranks; return and print what was seen."""
    steps = megatokens * 10**6 // (SEQUENCES * 1024)
    expected = [torch.cat(batch.micro_batches) for batch in batches(f"{folder}/ours/index.json", steps)]
    began, spent, wrong = time.perf_counter(), time.process_time(), 0
    for step, batch in enumerate(batches("s3://bucket/ours/index.json", steps)):
        wrong += not torch.equal(torch.cat(batch.micro_batches), expected[step])
    tokens = steps * SEQUENCES // RANKS * 1024
    seconds, cpu = time.perf_counter() - began, time.process_time() - spent
    facts = {
        "tokens": tokens,
        "mtok_per_s": tokens / seconds / 1e6,
        "mtok_per_cpu_s": tokens / cpu / 1e6,
        "batches": steps,
        "wrong": wrong,
    }
    print(f"ours, 1 of {RANKS} ranks: {facts}")
    return facts


def beside_peers(folder: str, megatokens: int, rounds: int) -> dict[str, list[list[float]]]:
    """Return and print, of each round, seconds to the first batch, then Mtok/s and Mtok per CPU second."""
    there = {name: each for name, each in _CONTENDERS.items() if importlib.util.find_spec(each[3])}
    found: dict[str, list[list[float]]] = {name: [] for name in there}
    for _, (name, (program, disk, store, _)) in itertools.product(range(rounds), there.items()):
        assert disk in program
        with tempfile.TemporaryDirectory() as empty:
            said = run(program.replace(disk, store) + _MEASURE, empty, str(megatokens * 10**6 * 9 // 10))
        found[name].append([float(number) for number in said.split("RESULT")[1].split()[:3]])
    for name, each in found.items():
        first, speed, cpu = (statistics.median(column) for column in zip(*each, strict=True))
        print(f"{name:20} first batch {first:6.2f} s, then {speed:7.2f} Mtok/s, {cpu:7.1f} Mtok/CPU-s")
    return found


def batches(index: str, steps: int):
    """Yield the first batches of rank 3 of 8."""
    data, share = DataConfig(index=index, sequence_tokens=1024), SEQUENCES // RANKS
    sources, order = training_data(
        opened_sources(data), data, batch_sequences=SEQUENCES, seed=SEED, share=share
    )
    plan = BatchPlan(SEQUENCES, RANKS, share // 16, 16)
    where = {"rank": 3, "first_sequence": 0, "prefetch": 3, "device": torch.device("cpu")}
    source = Batches(sources, order, plan=plan, **where)
    for _ in range(steps):
        yield next(source)
    source.close()


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:3]]
    main(*numbers, *(16, 3)[len(numbers) :], Path(sys.argv[3]) if len(sys.argv) > 3 else None)
