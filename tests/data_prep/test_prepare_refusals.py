"""What `prepare` does not take: one line, its exit code, and no shard."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import as_jsonl

from conf.exits import Exit
from data_prep import finalize, prepare

SMALL = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1", "workers=1"]
Called = Callable[..., tuple[int, str]]


def test_other_settings_on_the_same_output_are_refused(corpus: list[Path], tmp_path: Path, exit_line: Called):
    arguments = ["corpus=jsonl", f"corpus.paths=[{tmp_path}/*.jsonl]", f"output={tmp_path}/data", *SMALL]
    prepare.main([*arguments, "task_count=2"])
    for other in ("packing.seed=1", "corpus.errors=drop", "validation.fraction=0.2", "filters.min_bytes=2"):
        code, line = exit_line("prepare", *arguments, "task_count=2", "task_index=1", other)
        assert (code, line.count("\n")) == (Exit.CONFIG, 1)
        assert other.partition("=")[0] in line


def test_other_or_changed_inputs_on_the_same_output_are_refused(
    corpus: list[Path], tmp_path: Path, exit_line: Called
):
    arguments = ["corpus=jsonl", f"corpus.paths=[{tmp_path}/*.jsonl]", f"output={tmp_path}/data", *SMALL]
    prepare.main([*arguments, "task_count=2"])
    stamp = corpus[1].stat().st_mtime_ns
    for change in (
        lambda: corpus[1].write_bytes(corpus[1].read_bytes() + b'{"text": "more"}\n'),
        lambda: os.utime(corpus[1], ns=(stamp, stamp + 1)),
        lambda: as_jsonl(tmp_path / "d.jsonl", ["new"]),
    ):
        change()
        code, line = exit_line("prepare", *arguments, "task_count=2", "task_index=1")
        assert (code, line.count("\n")) == (Exit.DATASET, 1)
        assert "planned from other files" in line


def test_after_a_wrong_corpus_the_way_to_begin_anew_is_told_until_the_data_set_is_finished(
    corpus: list[Path], tmp_path: Path, exit_line: Called
):
    output = tmp_path / "data"
    right = ["corpus=jsonl", f"corpus.paths={corpus[0]}", f"output={output}", *SMALL]
    wrong = ["corpus=text", *right[1:]]
    anew = f"or begin anew: rm -r {output}/plan.json {output}/spill"
    prepare.main(wrong)
    assert anew in exit_line("prepare", *right)[1]
    finalize.main([f"output={output}"])
    assert "begin anew" not in exit_line("prepare", *right)[1]


def test_an_output_planned_for_another_format_is_refused(
    corpus: list[Path], tmp_path: Path, exit_line: Called
):
    arguments = ["corpus=jsonl", f"corpus.paths=[{tmp_path}/*.jsonl]", f"output={tmp_path}/data", *SMALL]
    prepare.main(arguments)
    path = tmp_path / "data" / "plan.json"
    plan = json.loads(path.read_bytes())
    del plan["format"]  # as format 1 wrote it
    path.write_text(json.dumps(plan))
    for program, called in (("prepare", arguments), ("finalize", [f"output={tmp_path}/data"])):
        code, line = exit_line(program, *called)
        assert (code, line.count("\n")) == (Exit.DATASET, 1)
        assert "format 1, this program writes 2" in line


def test_a_folder_that_holds_another_data_set_is_refused(
    corpus: list[Path], tmp_path: Path, exit_line: Called
):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/index.json").write_text("{}")
    code, line = exit_line(
        "prepare", "corpus=jsonl", f"corpus.paths=[{corpus[0]}]", f"output={tmp_path}/data"
    )
    assert code == Exit.DATASET
    assert "another output" in line


def _parquet(folder: Path) -> None:
    pq.write_table(pa.table({"id": [1], "body": ["a"]}), folder / "a.parquet")


BAD: list[tuple[str, list[str], Exit, str]] = [
    ("text", ["corpus.paths=[{0}/none.txt]"], Exit.DATASET, "none.txt does not exist"),
    ("text", ["corpus.paths=[{0}/none*.txt]"], Exit.DATASET, "matches no file"),
    ("text", ["corpus.paths=[{0}/nothing]"], Exit.DATASET, "holds no file ending in .txt"),
    ("text", ["corpus.paths=[{0}/empty.txt]"], Exit.DATASET, "the corpus is empty"),
    ("text", ["corpus.paths=[{0}/latin1.txt]"], Exit.DATASET, "latin1.txt: byte 4 is not UTF-8"),
    ("text", ["corpus.paths=[]"], Exit.CONFIG, "corpus.paths is empty"),
    ("text", [], Exit.CONFIG, "corpus.paths has no value"),
    ("text", ["corpus.paths=[{0}/a.txt]", "corpus.error=drop"], Exit.CONFIG, "did you mean 'corpus.errors'"),
    ("text", ["corpus.paths=[{0}/a.txt]", "corpus.errors=ignore"], Exit.CONFIG, "strict, replace, drop"),
    ("text", ["corpus.paths=[{0}/a.txt]", "task_index=2", "task_count=2"], Exit.CONFIG, "the first is 0"),
    ("text", ["corpus.paths=[{0}/a.txt]", "packing.block_tokens=1000"], Exit.CONFIG, "power of two"),
    ("text", ["corpus.paths=[{0}/a.txt]", "validation.fraction=1.5"], Exit.CONFIG, "not in [0, 1)"),
    ("text", ["corpus.paths=[{0}/a.txt]", "task_count=many"], Exit.CONFIG, "task_count"),
    ("text", ["corpus.paths=[{0}/a.txt]", "filters.min_bytes=9000"], Exit.DATASET, "no document is left"),
    ("texts", ["corpus.paths=[{0}/a.txt]"], Exit.CONFIG, "corpus has no option 'texts'"),
    ("jsonl", ["corpus.paths=[{0}/a.txt]"], Exit.DATASET, "a.txt:1 is not a line of JSON"),
    (
        "jsonl",
        ["corpus.paths=[{0}/a.jsonl]", "corpus.text_key=body"],
        Exit.DATASET,
        "a.jsonl:1 has no key 'body'",
    ),
    ("jsonl", ["corpus.paths=[{0}/blank.jsonl]"], Exit.DATASET, "no document is left: 2 documents read"),
    ("json", ["corpus.paths=[{0}/a.jsonl]"], Exit.DATASET, "is not JSON"),
    ("json", ["corpus.paths=[{0}/a.json]"], Exit.DATASET, "a.json: item 1 has no key 'text'"),
    ("text", ["corpus.paths=[{0}/cut.txt.gz]"], Exit.DATASET, "cut.txt.gz is not a whole gzip file"),
    ("parquet", ["corpus.paths=[{0}/a.parquet]"], Exit.DATASET, "one of: id, body"),
    ("parquet", ["corpus.paths=[{0}/a.txt]"], Exit.DATASET, "not a readable Parquet file"),
]


@pytest.mark.parametrize(("kind", "overrides", "code", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_one_line_and_its_exit_code(
    kind: str, overrides: list[str], code: Exit, message: str, *, tmp_path: Path, exit_line: Called
):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin1.txt").write_bytes("caf\xe9 au lait".replace("caf", "cafe").encode("latin-1"))
    (tmp_path / "nothing").mkdir()
    (tmp_path / "blank.jsonl").write_text('{"text": ""}\n{"text": null}\n')
    as_jsonl(tmp_path / "a.jsonl", ["a", "b"])
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"body": "b"}]')
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"text" * 100)[:-5])
    _parquet(tmp_path)
    given = [override.format(tmp_path) for override in overrides]
    found, line = exit_line("prepare", f"corpus={kind}", f"output={tmp_path}/data", *given)
    assert found == code, line
    assert message in line
    assert line.count("\n") == 1
    assert not list(tmp_path.glob("data/*.tar"))
