"""Many processes at once, tasks killed at random, documents larger than a worker's memory."""

import gzip
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import as_jsonl, documents, hashes

from conf.exits import Exit
from data_prep import finalize
from data_prep.index import read_index

Make = Callable[..., Path]
SMALL = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1"]
_PREPARE = """
from conf.command import run
from data_prep import prepare, units
units._SMALLEST_UNIT = 1 << 14
run(prepare.main, name="prepare", config="prepare", usage="")
"""

pytestmark = pytest.mark.slow


def started(*overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _PREPARE, *overrides]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def test_twelve_jobs_at_once_on_one_folder_give_the_bytes_of_one(make: Make, tmp_path: Path):
    path = as_jsonl(tmp_path / "a.jsonl", documents(800))
    expected = hashes(make([path], name="one"))
    overrides = ["corpus=jsonl", f"corpus.paths=[{path}]", f"output={tmp_path}/many", "workers=1", *SMALL]
    jobs = [started(*overrides) for _ in range(12)]
    ends = [(job.communicate()[1], job.returncode) for job in jobs]
    assert {code for _, code in ends} <= {Exit.OK, Exit.LEASE_HELD}
    assert any(code == Exit.OK for _, code in ends)
    assert all("is being worked on by process" in line for line, code in ends if code)
    finalize.main([f"output={tmp_path}/many"])
    assert hashes(tmp_path / "many") == expected


def test_twenty_tasks_killed_at_random_and_repeated_give_the_same_bytes(make: Make, tmp_path: Path):
    path = as_jsonl(tmp_path / "a.jsonl", documents(1500))
    expected = hashes(make([path], name="one"))
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    overrides = ["corpus=jsonl", f"corpus.paths=[{path}]", f"output={tmp_path}/killed", *SMALL]
    kills = 0
    while kills < 20:
        workers = chance.choice([1, 2])
        task = f"task_index={chance.randrange(7)}"
        with started(*overrides, f"workers={workers}", task, "task_count=7") as job:
            try:
                job.wait(chance.uniform(0.3, 3.0))
            except subprocess.TimeoutExpired:
                job.send_signal(signal.SIGKILL)
            kills += job.wait() == -signal.SIGKILL
    for task in range(7):
        with started(*overrides, "workers=1", f"task_index={task}", "task_count=7") as job:
            assert job.wait() == Exit.OK, job.stderr.read() if job.stderr else ""
    finalize.main([f"output={tmp_path}/killed"])
    assert hashes(tmp_path / "killed") == expected


_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def peak_mib(*overrides: str) -> float:
    """Return the peak memory of `data_prep.prepare`."""
    # Measured by a small process in between: the kernel counts the memory of whoever starts a program too.
    command = [sys.executable, "-c", _MEASURED, sys.executable, "-m", "data_prep.prepare", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.OK, done.stderr
    return int(done.stdout.split()[-1]) / 1024


def test_neither_a_row_group_nor_a_packed_file_is_held_whole(tmp_path: Path):
    text = " ".join(documents(100))[:20_000]
    texts = ["short"] + [f"{number} {text}" for number in range(12_000)]  # too long: it is read, no more
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", compression=None, use_dictionary=False)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", compresslevel=1) as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    for kind, name in (("parquet", "a.parquet"), ("jsonl", "a.jsonl.gz")):
        place = [f"corpus.paths=[{tmp_path}/{name}]", f"output={tmp_path}/{kind}"]
        assert peak_mib(f"corpus={kind}", *place, "workers=1", "filters.max_bytes=1000") < 300


def test_a_line_of_200_mb_costs_no_more_memory_than_the_limit_on_documents(tmp_path: Path):
    text = " ".join(documents(200))
    with (tmp_path / "a.jsonl").open("w") as file:
        file.write(json.dumps({"text": text * (100_000_000 // len(text))}) + "\n")
        file.write('{"text": "' + "long " * 40_000_000 + '"}\n')
        file.write(json.dumps({"text": "short"}) + "\n")
    overrides = ["corpus=jsonl", f"corpus.paths=[{tmp_path}/a.jsonl]", f"output={tmp_path}/data", "workers=1"]
    assert peak_mib(*overrides) < 1024
    finalize.main([f"output={tmp_path}/data"])
    counts = read_index(tmp_path / "data").counts
    assert (counts["documents_kept"], counts["documents_dropped"]) == (2, {"line_too_long": 1})
