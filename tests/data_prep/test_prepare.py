import bz2
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import as_jsonl, documents, hashes

from conf.exits import Exit
from data_prep import finalize, prepare
from data_prep.index import Split, read_index
from data_prep.lock import locked
from data_prep.plan import read_plan
from data_prep.shards import read_block

SMALL = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1", "workers=1"]
Make = Callable[..., Path]
Called = Callable[..., tuple[int, str]]


def test_the_number_and_order_of_tasks_does_not_change_a_byte(make: Make, corpus: list[Path]):
    one = hashes(make(corpus, name="one"))
    assert len(one) > 10
    assert hashes(make(corpus, name="two", tasks=2)) == one
    assert hashes(make(corpus[::-1], name="five", tasks=5)) == one


@pytest.mark.slow
def test_neither_does_the_number_of_workers(make: Make, corpus: list[Path]):
    one = hashes(make(corpus, name="one"))
    assert hashes(make(corpus, "workers=3", name="three", tasks=2)) == one


def test_the_variables_of_a_slurm_array_are_the_task_unless_it_is_named(
    corpus: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    arguments = ["corpus=jsonl", f"corpus.paths=[{tmp_path}/*.jsonl]", f"output={tmp_path}/data", *SMALL]
    prepare.main(arguments)
    units = len(read_plan(tmp_path / "data").units)
    done = {int(path.stem[-6:]) for path in tmp_path.glob("data/spill/unit-*.spill")}
    assert done == set(range(1, units, 3))
    prepare.main([*arguments, "task_index=0", "task_count=1"])
    assert len(list(tmp_path.glob("data/spill/unit-*.spill"))) == units


def test_neither_does_the_hash_seed_of_the_interpreter(make: Make, corpus: list[Path], tmp_path: Path):
    expected = hashes(make(corpus, name="one"))
    command = [
        sys.executable,
        "-m",
        "data_prep.prepare",
        "corpus=jsonl",
        f"corpus.paths=[{tmp_path}/*.jsonl]",
    ]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    output = f"output={tmp_path}/other"
    subprocess.run([*command, output, *SMALL], env=environment, check=True, capture_output=True)
    subprocess.run(
        [sys.executable, "-m", "data_prep.finalize", output], env=environment, check=True, capture_output=True
    )
    assert hashes(tmp_path / "other") == expected


def test_the_place_of_the_corpus_does_not_change_a_byte(make: Make, tmp_path: Path):
    found = []
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        as_jsonl(tmp_path / folder / "a.jsonl", documents(100))
        found.append(hashes(make([tmp_path / folder], name=f"data-{folder}")))
    assert found[0] == found[1]


def test_the_same_text_gives_the_same_shards_from_every_format_and_compression(make: Make, tmp_path: Path):
    texts = documents(40)
    plain = {
        "jsonl": as_jsonl(tmp_path / "a.jsonl", texts),
        "json": tmp_path / "a.json",
        "parquet": tmp_path / "a.parquet",
    }
    plain["json"].write_text(json.dumps([{"text": text} for text in texts], indent=1))
    pq.write_table(pa.table({"text": texts}), plain["parquet"], row_group_size=7)
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": _zstd, "": bytes}
    found = {}
    for kind, path in plain.items():
        for ending, packed in pack.items():
            named = path.with_name(path.name + ending)
            named.write_bytes(packed(path.read_bytes()))
            # One shard: how many there are is decided by the files' sizes, before any is read.
            output = make([named], "packing.shard_tokens=67108864", name=f"{kind}{ending}", kind=kind)
            found[f"{kind}{ending}"] = {k: v for k, v in hashes(output).items() if k != "index.json"}
    (tmp_path / "text").mkdir()
    for number, text in enumerate(texts):
        ending = list(pack)[number % 5]
        (tmp_path / "text" / f"{number}.txt{ending}").write_bytes(pack[ending](text.encode()))
    output = make([tmp_path / "text"], "packing.shard_tokens=67108864", name="data", kind="text")
    expected = {name: sha for name, sha in hashes(output).items() if name != "index.json"}
    assert len(expected) == 2
    assert found == dict.fromkeys(found, expected)


def test_the_same_text_is_split_alike_from_every_format_however_many_shards_it_makes(
    make: Make, tmp_path: Path
):
    texts = documents(600)
    jsonl = as_jsonl(tmp_path / "a.jsonl", texts)
    packed, parquet = tmp_path / "a.jsonl.gz", tmp_path / "a.parquet"
    packed.write_bytes(gzip.compress(jsonl.read_bytes()))
    pq.write_table(pa.table({"text": texts}), parquet, row_group_size=70)
    found = {}
    for path in (jsonl, packed, parquet):
        output = make([path], name=f"data-{path.name}", kind="parquet" if path is parquet else "jsonl")
        splits = read_index(output).splits
        found[path.name] = {name: _documents_of(output, split) for name, split in splits.items()}
        assert len(splits["train"].shards) > 5
    assert sum(map(len, found["a.jsonl"].values())) == 600
    assert found["a.jsonl.gz"] == found["a.parquet"] == found["a.jsonl"]


def _documents_of(output: Path, split: Split) -> list[list[int]]:
    """Return the tokens of the documents of a split, sorted."""
    found: list[list[int]] = []
    for shard in split.shards:
        blocks = [read_block(output, shard, number)[:-1] for number in range(shard.block_count)]
        tokens = np.concatenate(blocks)
        found += [part[1:].tolist() for part in np.split(tokens, np.flatnonzero(tokens == 50256))[1:]]
    return sorted(found)


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def test_every_document_is_accounted_for(make: Make, tmp_path: Path):
    texts = [*documents(50), *documents(20), "", "", "x" * 5000, "hi"]
    output = make([as_jsonl(tmp_path / "a.jsonl", texts)], "filters.max_bytes=4000", "filters.min_bytes=3")
    counts = read_index(output).counts
    dropped = counts["documents_dropped"]
    assert dropped == {"duplicate": 20, "empty": 2, "too_long": 1, "too_short": 1}
    assert (counts["documents_read"], counts["documents_kept"]) == (74, 50)
    assert counts["text_bytes"] == sum(len(text.encode()) for text in documents(50))


def test_duplicates_are_found_across_tasks(make: Make, tmp_path: Path):
    paths = [as_jsonl(tmp_path / f"{n}.jsonl", [*documents(30), f"only {n}"]) for n in range(6)]
    output = make(paths, tasks=6)
    assert read_index(output).counts["documents_dropped"] == {"duplicate": 150}
    assert read_index(output).counts["documents_kept"] == 36


def test_validation_stays_validation_when_the_corpus_grows(make: Make, tmp_path: Path):
    small = make([as_jsonl(tmp_path / "a.jsonl", documents(300))], name="small")
    large = make([as_jsonl(tmp_path / "b.jsonl", documents(300) + documents(900, seed=1))], name="large")

    def held_back(output: Path) -> set[bytes]:
        index = read_index(output)
        streams = [
            b"".join(read_block(output, shard, number)[:-1].tobytes() for number in range(shard.block_count))
            for shard in index.splits["validation"].shards
        ]
        end = (50256).to_bytes(2, "little")
        return {
            document for stream in streams for document in stream.split(end)
        }  # no other token has these bytes

    assert 10 < len(held_back(small)) < 60
    assert held_back(small) <= held_back(large)


def test_a_task_run_again_does_only_what_is_missing(corpus: list[Path], tmp_path: Path):
    output = tmp_path / "data"
    arguments = ["corpus=jsonl", f"corpus.paths=[{tmp_path}/*.jsonl]", f"output={output}", *SMALL]
    prepare.main(arguments)
    spilled = {path: path.stat().st_mtime_ns for path in (output / "spill").glob("*.spill")}
    assert len(spilled) == len(read_plan(output).units) > 2
    missing, damaged = sorted(spilled)[:2]
    missing.with_suffix(".json").unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    prepare.main(arguments)
    again = {path: path.stat().st_mtime_ns for path in (output / "spill").glob("*.spill")}
    assert {path for path in spilled if spilled[path] != again[path]} == {missing, damaged}
    finalize.main([f"output={output}"])
    before = hashes(output)
    prepare.main(arguments)  # the data set is finished: nothing is made again
    finalize.main([f"output={output}"])
    assert hashes(output) == before
    assert not (output / "spill").exists()


def test_a_killed_task_leaves_nothing_half_done(make: Make, corpus: list[Path], tmp_path: Path):
    expected = hashes(make(corpus, name="whole"))
    output = tmp_path / "killed"
    command = [
        *(
            sys.executable,
            "-u",
            "-m",
            "data_prep.prepare",
            "corpus=jsonl",
            f"corpus.paths=[{tmp_path}/*.jsonl]",
        ),
        *(f"output={output}", *SMALL),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as job:
        while job.poll() is None and not list(output.glob("spill/*.json")):
            pass
        job.send_signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL
    assert subprocess.run(command, check=False, capture_output=True).returncode == Exit.OK
    finalize.main([f"output={output}"])
    assert hashes(output) == expected


def test_the_second_process_at_a_unit_is_told_of_the_first(
    corpus: list[Path], tmp_path: Path, exit_line: Called
):
    output = tmp_path / "data"
    arguments = ["corpus=jsonl", f"corpus.paths=[{tmp_path}/*.jsonl]", f"output={output}", *SMALL]
    (output / "spill").mkdir(parents=True)
    (output / "spill").rename(tmp_path / "spill")
    prepare.main([*arguments, "task_index=0", "task_count=1000"])
    with locked(output / "spill/unit-000001.lock", "unit 1"):
        code, line = exit_line("prepare", *arguments)
    assert code == Exit.LEASE_HELD
    assert f"process {os.getpid()} on" in line
    assert exit_line("prepare", *arguments)[0] == Exit.OK


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    as_jsonl(tmp_path / "a.jsonl", documents(3))
    prepare.main(["corpus=jsonl", "corpus.paths=['~/a.jsonl']", "output='~/data'", *SMALL])
    assert read_plan(tmp_path / "data").inputs[0].path == f"{tmp_path}/a.jsonl"


@pytest.mark.slow
def test_the_standard_library_is_a_corpus_of_its_own(tmp_path: Path):
    prepare.main(["corpus=stdlib", f"output={tmp_path}/data"])
    finalize.main([f"output={tmp_path}/data"])
    index = read_index(tmp_path / "data")
    assert index.counts["text_bytes"] > 5_000_000
    assert json.dumps(index.config).find(str(Path(os.__file__).parent)) < 0
