import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from conf.exits import DatasetError
from pretrain.evaluation.records import field, records


def test_json_lines_are_records_a_text_is_one_and_a_limit_takes_the_first(tmp_path: Path):
    rows = [{"text": "a b"}, {"text": "ü"}, {"text": "c"}]
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.txt").write_text("a b\nü\n")
    assert records(str(tmp_path / "a.jsonl")) == records(str(tmp_path / "a.jsonl.gz")) == rows
    assert records(str(tmp_path / "a.jsonl"), 2) == rows[:2]
    assert records(str(tmp_path / "a.txt")) == [{"text": "a b\nü\n"}]


def test_the_lines_of_a_parquet_file_are_one_document_and_other_rows_are_records(tmp_path: Path):
    path = tmp_path / "wiki.parquet"
    parquet.write_table(pa.table({"text": ["", " = A = \n", " b \n"]}), path)
    assert records(str(path)) == [{"text": " = A = \n b \n"}]
    parquet.write_table(pa.table({"ctx": ["x"], "endings": [["y", "z"]]}), path)
    assert records(str(path)) == [{"ctx": "x", "endings": ["y", "z"]}]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.jsonl", None, "cannot be read"),
        ("empty.jsonl", b"\n", "holds no record"),
        ("empty.txt", b"", "holds no record"),
        ("bad.jsonl", b'{"a": 1}\n{"a": \n', r"bad\.jsonl:2 is no JSON"),
        ("list.jsonl", b"[1]\n", r"list\.jsonl:1 is no JSON object"),
        ("latin.txt", b"caf\xe9", "not UTF-8 at byte 3"),
    ],
)
def test_a_file_that_is_no_benchmark_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes | None, says: str
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=says):
        records(str(tmp_path / name))


def test_a_record_without_the_field_says_what_it_has():
    with pytest.raises(DatasetError, match="no 'ctx' but label, text"):
        field({"text": "a", "label": 1}, "ctx", "x.jsonl")
