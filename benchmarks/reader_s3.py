"""Read from an S3 server with latency and failing requests; hold every batch against the disk's.

usage: python benchmarks/reader_s3.py [MEGATOKENS] [RESULT.json]     (16 by default; needs moto and s3fs)

The server is moto, in a process of its own, behind 20 ms of latency; 1 % of the requests fail with 503. The
reader is one of 8 ranks with a batch of 512 sequences of 1024 tokens.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from pretrain.batch import BatchPlan
from pretrain.stream.data import Batches
from pretrain.stream.sources import DataConfig, opened_sources, training_data

sys.path.insert(0, str(Path(__file__).parent))
from reader import SEED, commit, write_ours

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


def main(megatokens: int, result: Path | None) -> None:
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
            facts = measured(folder, megatokens)
        finally:
            server.kill()
            server.wait()
    print(facts)
    if result is not None:
        facts |= {"commit": commit(), "command": sys.argv, "seed": SEED, "load": os.getloadavg()}
        result.write_text(json.dumps(facts, indent=1) + "\n")


def measured(folder: str, megatokens: int) -> dict:
    """Upload a data set, read it over S3 and from the disk; return what was seen."""
    import s3fs  # noqa: PLC0415  after the server's address is known

    chance = np.random.default_rng(SEED)
    chance.integers(0, 50_257, megatokens * 10**6, dtype=np.uint16).tofile(Path(folder, "train.bin"))
    write_ours(folder)
    files = s3fs.S3FileSystem()
    files.mkdir("bucket")
    for path in Path(folder, "ours").iterdir():
        files.put_file(str(path), f"bucket/ours/{path.name}")
    steps = megatokens * 10**6 // (SEQUENCES * 1024)
    expected = [torch.cat(batch.micro_batches) for batch in batches(f"{folder}/ours/index.json", steps)]
    began, spent, wrong = time.perf_counter(), time.process_time(), 0
    for step, batch in enumerate(batches("s3://bucket/ours/index.json", steps)):
        wrong += not torch.equal(torch.cat(batch.micro_batches), expected[step])
    tokens = steps * SEQUENCES // RANKS * 1024
    seconds, cpu = time.perf_counter() - began, time.process_time() - spent
    return {
        "tokens": tokens,
        "mtok_per_s": tokens / seconds / 1e6,
        "mtok_per_cpu_s": tokens / cpu / 1e6,
        "batches": steps,
        "wrong": wrong,
    }


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
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 16, Path(sys.argv[2]) if len(sys.argv) > 2 else None)
