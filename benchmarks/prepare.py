"""Compare data preparation with the loops that others use, in CPU seconds on one corpus.

usage: python benchmarks/prepare.py [MEGABYTES] [ROUNDS]      (100 MB and 3 rounds by default)

The contenders take turns, so that a busy machine is busy for all of them. Each runs in a process of its own,
whose user and system time, imports included, is counted; the median over the rounds is shown. Contenders
whose package is not installed are left out.
"""

import importlib.util
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

_PLAIN = """
import json, sys
import numpy as np
import tiktoken
from data_prep.tokenizer import load_tokenizer
encode = load_tokenizer()._encoding.encode_ordinary
with open(sys.argv[1], "rb") as lines, open(sys.argv[2], "wb") as out:
    for line in lines:
        out.write(np.array([50256, *encode(json.loads(line)["text"])], np.uint16).tobytes())
"""
_OURS = """
import sys
from data_prep import finalize, prepare
corpus, output, *others = sys.argv[1:]
prepare.main(["corpus=jsonl", f"corpus.paths=[{corpus}]", f"output={output}", "workers=1", *others])
finalize.main([f"output={output}"])
"""
_DATASETS = """
import sys
import numpy as np
from datasets import load_dataset
from data_prep.tokenizer import load_tokenizer
def encode(example):
    ids = load_tokenizer().encode(example["text"])
    return {"ids": [*ids, 50256], "len": len(ids) + 1}
data = load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
data = data.map(encode, remove_columns=["text"], num_proc=1)
out = np.memmap(sys.argv[2] + ".bin", np.uint16, "w+", shape=(int(np.sum(data["len"], dtype=np.uint64)),))
place = 0
for n in range(1024):
    part = data.shard(1024, n, contiguous=True).with_format("numpy")
    if len(part):
        ids = np.concatenate(part["ids"])
        out[place : place + len(ids)] = ids
        place += len(ids)
"""
# Name: (program, arguments, package that it needs).
_CONTENDERS: dict[str, tuple[str, list[str], str]] = {
    "json + tiktoken + uint16, one loop": (_PLAIN, [], "tiktoken"),
    "prepare + finalize": (_OURS, [], "tiktoken"),
    "prepare + finalize, tokenizer=gigatoken": (_OURS, ["tokenizer=gigatoken"], "gigatoken"),
    "datasets.map, as nanoGPT does it": (_DATASETS, [], "datasets"),
}


def main(megabytes: int, rounds: int) -> None:
    """Print megabytes of text per CPU second of each contender."""
    contenders = {n: c for n, c in _CONTENDERS.items() if importlib.util.find_spec(c[2])}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.jsonl")
        text_bytes = write_corpus(corpus, megabytes * 1_000_000)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for turn, (name, (program, arguments, _)) in itertools.product(range(rounds), contenders.items()):
            output = Path(folder, f"output-{turn}")
            seconds[name].append(cpu_seconds([sys.executable, "-c", program, corpus, output, *arguments]))
            shutil.rmtree(output, ignore_errors=True)
            output.unlink(missing_ok=True)
    first = statistics.median(seconds[next(iter(contenders))])
    print(f"{text_bytes / 1e6:.0f} MB of the standard library's text, {rounds} rounds")
    print(f"{'':40} {'MB/CPU-s':>9} {'ratio':>6}")
    for name, found in seconds.items():
        median = statistics.median(found)
        print(f"{name:40} {text_bytes / 1e6 / median:9.1f} {first / median:6.2f}")


def write_corpus(path: Path, wanted: int) -> int:
    """Write about `wanted` bytes of text as JSON lines, no two alike; return how many bytes of text."""
    texts = []
    for source in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        try:
            texts.append(source.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
    written = 0
    with path.open("w") as file:
        for number, text in enumerate(itertools.cycle(texts)):
            if written >= wanted:
                return written
            distinct = f"# {number}\n{text}"
            file.write(json.dumps({"text": distinct}) + "\n")
            written += len(distinct.encode())
    return written


def cpu_seconds(command: list) -> float:
    """Run a program to its end; return its user and system time."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as job:
        assert job.stderr is not None
        message = job.stderr.read()
        _, status, usage = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
    if job.returncode:
        sys.exit(message.decode())
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:3]]
    main(*numbers, *(100, 3)[len(numbers) :])
