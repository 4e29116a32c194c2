"""Files of the corpus that are damaged, with and without a list of their SHA-256."""

import bz2
import gzip
import hashlib
import json
import lzma
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import as_jsonl, documents, hashes

from conf.exits import CorruptError, DatasetError, Exit
from data_prep.checksums import recorded_hashes
from data_prep.contamination import DecontaminationConfig
from data_prep.filters import FilterConfig
from data_prep.packing import PackingConfig
from data_prep.plan import Settings, ValidationConfig, agreed_plan, spill_folder
from data_prep.shuffle import map_unit
from data_prep.sources import CorpusConfig, list_inputs
from data_prep.streams import open_content
from data_prep.tokenizer import load_tokenizer

Make = Callable[..., Path]
Called = Callable[..., tuple[int, str]]
SMALL = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1", "workers=1"]


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstd,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
KINDS = {"text": "a.txt", "jsonl": "a.jsonl", "json": "a.json", "parquet": "a.parquet"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content_of(kind: str, texts: list[str]) -> bytes:
    """Return a file of one kind that holds the texts."""
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": texts}), sink, row_group_size=3)
        return sink.getvalue().to_pybytes()
    items = [{"text": text} for text in texts]
    return {
        "text": "\n".join(texts),
        "jsonl": "".join(json.dumps(item) + "\n" for item in items),
        "json": json.dumps(items),
    }[kind].encode()


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return the content damaged in one of the ways of disks and networks."""
    at, length = chance.randrange(len(content)), len(content)
    kind = chance.choice(["flip", "cut", "zeros", "swap", "double", "gone", "longer"])
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    if kind == "zeros":
        return content[:at] + bytes(min(64, length - at)) + content[at + 64 :]
    if kind == "swap":
        return content[at:] + content[:at]
    if kind == "double":
        return content[:at] + content[max(0, at - 50) :]
    return content[:at] + content[at + 10 :] if kind == "gone" else content + bytes(chance.randrange(1, 20))


def read_as_planned(path: Path, kind: str, folder: Path, checksums: Path | None) -> None:
    """Plan and map one file as prepare does."""
    corpus = CorpusConfig(kind, [str(path)], checksums=str(checksums) if checksums else None)
    packing = PackingConfig(1024, 8192, 0)
    settings = Settings(
        corpus, FilterConfig(1, 1 << 20), packing, ValidationConfig(0.0), DecontaminationConfig(0.5)
    )
    plan = agreed_plan(folder, settings, list_inputs(corpus))
    spill_folder(folder).mkdir(exist_ok=True)
    for unit in range(len(plan.units)):
        map_unit(plan, folder, unit, load_tokenizer())


def outcomes(tmp_path: Path, each: int, *, recorded: bool) -> Counter[str]:
    """Count, for every kind and compression, how `each` damaged files of it end."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance, found = random.Random(seed), Counter()
    texts = documents(8, seed=3)
    for kind, name in KINDS.items():
        for ending, packed in PACK.items():
            content = content_of(kind, texts)
            whole = packed(content)
            path = tmp_path / f"{name}{ending}"
            sums = tmp_path / f"{name}{ending}.sha256"
            sums.write_text(f"{hashlib.sha256(whole).hexdigest()}  {path.name}\n")
            for number in range(each):
                damaged = mutated(whole, chance)
                if damaged == whole:
                    continue
                path.write_bytes(damaged)
                folder = tmp_path / f"{name}{ending}-{number}"
                try:
                    read_as_planned(path, kind, folder, sums if recorded else None)
                except (DatasetError, CorruptError) as error:
                    found["refused" if "\n" not in str(error) else f"more than a line: {error}"] += 1
                else:
                    with open_content(str(path)) as file:
                        same = file.read() == content
                    found[f"{kind}{ending} accepted{', not a byte of it changed' * same}"] += 1
    return found


def test_no_damaged_file_passes_when_its_hash_is_known(tmp_path: Path):
    found = outcomes(tmp_path, 6, recorded=True)
    assert list(found) == ["refused"], found
    assert found["refused"] > 100


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_not_one_of_5000_damaged_files_passes_when_its_hash_is_known(tmp_path: Path):
    found = outcomes(tmp_path, 255, recorded=True)
    assert list(found) == ["refused"], found
    assert found["refused"] >= 5000
    print(f"{found['refused']} of {found['refused']} refused")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_damage_without_a_known_hash_is_never_a_traceback(tmp_path: Path):
    found = outcomes(tmp_path, 100, recorded=False)
    print(dict(sorted(found.items())))
    # What has checksums of its own lets no other content pass: a byte of a header, or zeros behind the end.
    assert not [key for key in found if key.endswith((".gz accepted", ".xz accepted", ".bz2 accepted"))], (
        found
    )


def test_300_of_300_truncated_zstd_files_are_refused_without_a_hash(tmp_path: Path):
    chance = random.Random(random.randrange(10**6))
    whole = zstd("".join(documents(100)).encode())
    refused = 0
    for _ in range(300):
        (tmp_path / "a.txt.zst").write_bytes(whole[: chance.randrange(len(whole))])
        with pytest.raises(DatasetError), open_content(str(tmp_path / "a.txt.zst")) as file:
            file.read()
        refused += 1
    assert refused == 300


def test_a_list_of_sha256sum_is_read_and_the_bytes_of_the_shards_do_not_depend_on_it(
    make: Make, tmp_path: Path
):
    (tmp_path / "deep").mkdir()
    names = ["a.jsonl", "deep/b c.jsonl"]
    paths = [as_jsonl(tmp_path / name, documents(200, seed=n)) for n, name in enumerate(names)]
    lines = [f"{sha256(path)}  {name}" for path, name in zip(paths, names, strict=True)]
    lines[1] = lines[1].replace("  ", " *", 1)
    (tmp_path / "SHA256SUMS").write_text("\n".join(lines) + "\n")
    assert set(recorded_hashes(str(tmp_path / "SHA256SUMS"))) == set(map(str, paths))
    found = hashes(make([tmp_path], f"corpus.checksums={tmp_path}/SHA256SUMS", name="checked"))
    assert found == hashes(make([tmp_path], name="unchecked"))


def test_a_file_of_many_units_is_refused_wherever_it_is_damaged(tmp_path: Path, exit_line: Called):
    path = as_jsonl(tmp_path / "a.jsonl", documents(400))
    whole = path.read_bytes()
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(whole).hexdigest()}  a.jsonl\n")
    at = whole.rindex(b"the")  # in the last unit's part; still a line of JSON
    path.write_bytes(whole[:at] + b"tho" + whole[at + 3 :])
    code, line = exit_line(
        *("prepare", "corpus=jsonl", f"corpus.paths=[{path}]", f"corpus.checksums={tmp_path}/SHA256SUMS"),
        *(f"output={tmp_path}/data", *SMALL),
    )
    assert (code, line.count("\n")) == (Exit.CORRUPT, 1)
    assert "a.jsonl has SHA-256" in line


def test_an_empty_file_that_should_not_be_is_refused(tmp_path: Path, exit_line: Called):
    as_jsonl(tmp_path / "a.jsonl", documents(3))
    (tmp_path / "b.jsonl").write_bytes(b"")
    sums = [f"{sha256(tmp_path / 'a.jsonl')}  a.jsonl", f"{'0' * 64}  b.jsonl"]
    (tmp_path / "SHA256SUMS").write_text("\n".join(sums))
    code, line = exit_line(
        *("prepare", "corpus=jsonl", f"corpus.paths=[{tmp_path}]", f"corpus.checksums={tmp_path}/SHA256SUMS"),
        *(f"output={tmp_path}/data", *SMALL),
    )
    assert (code, line.count("\n")) == (Exit.CORRUPT, 1)
    assert "b.jsonl" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "SHA256SUMS cannot be read"),
        ("short  a.jsonl\n", "SHA256SUMS:1 is not a line of sha256sum"),
        (f"{'0' * 64}  other.jsonl\n", "a.jsonl is not in corpus.checksums"),
    ],
)
def test_a_list_that_does_not_fit_the_corpus_is_one_line(
    content: str | None, message: str, tmp_path: Path, exit_line: Called
):
    as_jsonl(tmp_path / "a.jsonl", documents(3))
    if content is not None:
        (tmp_path / "SHA256SUMS").write_text(content)
    code, line = exit_line(
        *("prepare", "corpus=jsonl", f"corpus.paths=[{tmp_path}/a.jsonl]"),
        *(f"corpus.checksums={tmp_path}/SHA256SUMS", f"output={tmp_path}/data", *SMALL),
    )
    assert (code, line.count("\n")) == (Exit.DATASET, 1)
    assert message in line
