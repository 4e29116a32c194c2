"""A validation split whose size is given in tokens."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import as_jsonl, documents

from conf.exits import Exit
from data_prep.density import tokens_per_byte
from data_prep.documents import Piece
from data_prep.index import read_index
from data_prep.plan import read_plan
from data_prep.sources import CorpusConfig
from data_prep.tokenizer import load_tokenizer

Make = Callable[..., Path]
Called = Callable[..., tuple[int, str]]
# No JSON or column adds to them, so that every kind has the same tokens per byte.
TEXTS = [" ".join(text.split()) for text in documents(2000)]


def test_the_sample_of_every_kind_is_near_the_whole(tmp_path: Path):
    paths = {"jsonl": as_jsonl(tmp_path / "a.jsonl", TEXTS), "parquet": tmp_path / "a.parquet"}
    pq.write_table(pa.table({"text": TEXTS}), paths["parquet"], row_group_size=100)
    tokens = sum(len(load_tokenizer().encode(text)) + 1 for text in TEXTS)
    size = paths["jsonl"].stat().st_size
    lines = [Piece(str(paths["jsonl"]), start, min(start + 50_000, size)) for start in range(0, size, 50_000)]
    groups = [Piece(str(paths["parquet"]), group, group + 1) for group in range(20)]
    text_bytes = sum(len(text.encode()) for text in TEXTS)
    for kind, pieces, total in (("jsonl", lines, size), ("parquet", groups, text_bytes)):
        found = tokens_per_byte(pieces, CorpusConfig(kind, [str(paths[kind])]))
        assert found == pytest.approx(tokens / total, rel=0.02)


def test_a_size_in_tokens_is_kept_about_and_becomes_a_fraction(make: Make, tmp_path: Path, *, capsys):
    path = as_jsonl(tmp_path / "a.jsonl", TEXTS)
    output = make([path], "validation.tokens=50000", name="tokens")
    found = read_index(output).splits["validation"]
    assert 35_000 < found.tokens < 65_000  # a slice of the hashes: about 250 of the 2,000 documents
    fraction = read_plan(output).routing.validation_fraction
    assert f"are a fraction of {fraction:.6g}" in capsys.readouterr().out
    again = read_index(make([path], f"validation.fraction={fraction}", name="fraction"))
    assert again.splits["validation"].shards == found.shards


def test_tasks_agree_on_the_fraction_and_refuse_another(tmp_path: Path, make: Make, exit_line: Called):
    path = as_jsonl(tmp_path / "a.jsonl", TEXTS)
    make([path], "validation.tokens=50000", tasks=2)
    arguments = ["corpus=jsonl", f"corpus.paths=[{path}]", "workers=1", "packing.block_tokens=1024"]
    for other in ("validation.tokens=60000", "validation.fraction=0.1"):
        given = ["packing.shard_tokens=8192", other, f"output={tmp_path}/data"]
        code, line = exit_line("prepare", *arguments, *given)
        assert (code, line.count("\n")) == (Exit.CONFIG, 1)
        assert "was planned with validation." in line
    for wrong, message in ((0, "not at least 1"), (10**9, "leaves nothing to train on")):
        code, line = exit_line("prepare", *arguments, f"validation.tokens={wrong}", f"output={tmp_path}/new")
        assert (code, line.count("\n")) == (Exit.CONFIG, 1)
        assert message in line
