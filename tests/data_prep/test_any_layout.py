"""One corpus by every layout of the work: tasks, workers, hash seeds; every output byte the same."""

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import as_jsonl, documents, hashes

from conf.exits import Exit

Make = Callable[..., Path]
SMALL = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1"]
_COMMAND = """
import sys
from conf.command import run
from data_prep import finalize, prepare, units
units._SMALLEST_UNIT = 1 << 14
name = sys.argv.pop(1)
run({"prepare": prepare, "finalize": finalize}[name].main, name=name, config=name, usage="")
"""


def start(hash_seed: int, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-c", _COMMAND, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=pipe, text=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_layout_of_the_work_changes_a_byte(make: Make, tmp_path: Path):
    texts = documents(500)
    paths = [as_jsonl(tmp_path / f"{n}.jsonl", texts[n::3] + texts[:20]) for n in range(3)]
    expected = hashes(make(paths, name="one"))
    assert len(expected) > 5
    layouts = list(itertools.product((1, 2, 7), (1, 2), (0, 77)))
    for tasks, workers, hash_seed in layouts:
        output = f"output={tmp_path}/{tasks}-{workers}-{hash_seed}"
        corpus = ["corpus=jsonl", f"corpus.paths=[{','.join(map(str, paths))}]", f"workers={workers}", *SMALL]
        order = random.sample(range(tasks), tasks)
        for command, others in (("prepare", corpus), ("finalize", [])):
            for task in order:
                share = [f"task_index={task}", f"task_count={tasks}"]
                with start(hash_seed, command, output, *others, *share) as job:
                    message = job.communicate()[1]
                assert job.returncode == Exit.OK, message
        assert hashes(tmp_path / f"{tasks}-{workers}-{hash_seed}") == expected, (tasks, workers, hash_seed)
    print(f"{len(layouts)} layouts, every byte equal")
