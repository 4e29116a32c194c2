import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import as_jsonl, documents
from hypothesis import given, settings
from hypothesis import strategies as st

import data_prep.documents
from conf import compose
from conf.exits import DatasetError
from data_prep.counts import Drop
from data_prep.documents import Document, Piece, parquet_groups, read_documents
from data_prep.sources import CorpusConfig

LIMIT = 1 << 20


def read(
    path: Path, kind: str, start: int = 0, stop: int | None = None, limit: int = LIMIT, **settings: str
) -> list:
    """Return the documents of a file: text, or the reason that there is none."""
    corpus = CorpusConfig(kind=kind, paths=[str(path)], **settings)
    piece = Piece(str(path), start, path.stat().st_size if stop is None else stop)
    found = list(read_documents(piece, corpus, limit))
    assert all(item.text.encode() == item.utf8 for item in found if isinstance(item, Document))
    return [item.text if isinstance(item, Document) else item for item in found]


@given(st.lists(st.text(max_size=30), max_size=12), st.integers(1, 60), st.booleans())
@settings(max_examples=200, deadline=None)
def test_byte_ranges_give_every_line_once(tmp_path_factory, texts: list[str], step: int, last_newline: bool):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_bytes("\r\n".join(lines).encode() + (b"\n" if last_newline else b""))
    size = path.stat().st_size
    parts = [read(path, "jsonl", start, min(start + step, size)) for start in range(0, size, step)]
    assert [text for part in parts for text in part] == texts


def test_text_is_read_byte_for_byte(tmp_path: Path):
    content = "\ufeffa\r\nb\rc\x00\x0c\n\n".encode()
    (tmp_path / "a.txt").write_bytes(content)
    assert [text.encode() for text in read(tmp_path / "a.txt", "text")] == [content]


def test_a_parquet_file_is_read_by_row_groups(tmp_path: Path):
    texts = documents(100)
    for name, kind in (("a", pa.string()), ("b", pa.large_string()), ("c", pa.binary())):
        path = tmp_path / f"{name}.parquet"
        values = [text.encode() for text in texts] if name == "c" else texts
        table = pa.table({"id": list(range(100)), "body": pa.array(values, kind)})
        pq.write_table(table, path, row_group_size=30)
        assert len(parquet_groups(str(path), "body")) == 4
        parts = [read(path, "parquet", n, n + 1, text_key="body") for n in range(4)]
        assert [len(part) for part in parts] == [30, 30, 30, 10]
        assert [text for part in parts for text in part] == texts


def test_the_rows_of_a_dictionary_column_are_text(tmp_path: Path):
    values = pa.array(["a", "b", "a", None]).dictionary_encode()
    pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "parquet", 0, 1) == ["a", "b", "a", Drop.EMPTY]


def test_a_text_longer_than_the_limit_is_passed_over(tmp_path: Path):
    path = as_jsonl(tmp_path / "a.jsonl", ["short", "long" * 1000, "after"])
    assert read(path, "jsonl", limit=100) == ["short", Drop.TOO_LONG, "after"]
    assert read(path, "jsonl", 0, 30, limit=100) == ["short", Drop.TOO_LONG]
    assert read(path, "jsonl", 30, limit=100) == ["after"]


def test_the_limit_is_on_the_text_and_not_on_what_json_makes_of_it(tmp_path: Path):
    cyrillic = "длинный текст " * 35  # 875 bytes; as \\u… above 2000
    lines = [json.dumps({"text": cyrillic}), json.dumps({"text": "short", "headers": "x" * 5000})]
    assert len(lines[0]) > 2000 > len(cyrillic.encode())
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.json").write_text(f"[{','.join(lines)}]")
    for kind in ("jsonl", "json"):
        assert read(tmp_path / f"a.{kind}", kind, limit=2000) == [cyrillic, "short"]


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_line_that_no_worker_can_hold_has_a_count_of_its_own(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(data_prep.documents, "_LONGEST_LINE", 1000)
    lines = [{"text": "before"}, {"text": "short", "headers": "x" * 5000}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + end)
    assert read(path, "jsonl", limit=100) == ["before", Drop.LINE_TOO_LONG]


def test_a_text_file_longer_than_the_limit_is_not_read(tmp_path: Path):
    (tmp_path / "a.txt").write_text("long" * 100)
    assert read(tmp_path / "a.txt", "text", limit=100) == [Drop.TOO_LONG]


BAD_LINES = [
    (b'{"text": "a"\n', r"a\.jsonl:3 is not a line of JSON"),
    (b"[1, 2]\n", r"a\.jsonl:3 has no key 'text'"),
    (b"7\n", r"a\.jsonl:3 has no key 'text'"),
    (b"null\n", r"a\.jsonl:3 has no key 'text'"),
    (b'{"body": "a"}\n', r"a\.jsonl:3 has no key 'text'"),
    (b'{"text": 7}\n', r"a\.jsonl:3: the value of 'text' is not a string"),
    (b"[" * 100_000 + b"\n", r"a\.jsonl:3 is not a line of JSON"),
    (b'{"text": ' + b"9" * 5000 + b"}\n", r"a\.jsonl:3 is not a line of JSON"),
    (b'{"text": "\xff"}\n', r"a\.jsonl: byte 38 is not UTF-8"),
    (b'{"text": "\xed\xa0\x80"}\n', r"a\.jsonl: byte 38 is not UTF-8"),
    (b'{"text": "\\ud800"}\n', r"a\.jsonl:3: .* not UTF-8"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_by_file_and_line(line: bytes, message: str, tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "b"}\n' + line + b'{"text": "c"}\n')
    for start in (0, 15):  # from the first byte, and in a range that begins inside line 2
        with pytest.raises(DatasetError, match=message) as caught:
            read(path, "jsonl", start)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"a\xffb", b"\xc0\xaf", b"\xed\xa0\x80", b"\x80", b"ok \xf0\x9f\x99", b"\xf5\x80"]
)
def test_text_that_is_not_utf8_is_refused_replaced_or_dropped_as_configured(content: bytes, tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    bad = next(n for n in range(len(content)) if content[n] >= 0x80)
    with pytest.raises(DatasetError, match=rf"a\.txt: byte {bad} is not UTF-8"):
        read(path, "text")
    assert read(path, "text", errors="replace") == [content.decode("utf-8", "replace")]
    assert read(path, "text", errors="drop") == [Drop.UNDECODABLE]


@pytest.mark.parametrize(
    "extra", ["NaN", "-Infinity", "1e999", "123456789012345678901234567890", '"\\ud800"']
)
def test_a_line_that_only_the_slower_parser_takes_is_a_document_too(extra: str, tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"score": ' + extra + ', "text": "first", "text": "\\u0000naïve \\ud83d\\ude42"}\r\n')
    assert read(path, "jsonl") == ["\0naïve 🙂"]


def test_blank_lines_are_no_documents_and_null_text_is_an_empty_one(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\n{"text": null}\n  \n{"text": ""}\n\n')
    assert read(path, "jsonl") == [Drop.EMPTY, ""]


def test_a_parquet_file_without_the_column_names_those_there_are(tmp_path: Path):
    pq.write_table(pa.table({"id": [1], "body": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match=r"no column 'text'.*id, body"):
        parquet_groups(str(tmp_path / "a.parquet"), "text")


def test_a_column_of_numbers_is_no_text(tmp_path: Path):
    pq.write_table(pa.table({"text": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match=r"a\.parquet.*int64"):
        parquet_groups(str(tmp_path / "a.parquet"), "text")


def test_a_damaged_parquet_file_is_never_a_traceback(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": documents(50)}), path, write_page_checksum=True)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 97):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        try:
            for group in range(len(parquet_groups(str(path), "text"))):
                read(path, "parquet", group, group + 1)
        except DatasetError:
            refused += 1
    assert refused > len(whole) // 97 / 2  # the rest lies where no checksum reaches


def test_rows_that_are_lines_are_joined_to_documents(tmp_path: Path):
    rows = ["", " = One = \n", " text \n", "", " = = Part = = \n", " more \n", " = Two = \n", " end \n"]
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", row_group_size=3)
    start = compose("prepare", ["corpus=wikitext103", "output=x"]).corpus.document_start
    found = read(tmp_path / "a.parquet", "parquet", 0, 3, document_start=start)
    assert found == [" = One = \n text \n = = Part = = \n more \n", " = Two = \n end \n"]


def test_a_row_that_is_no_utf8_costs_its_document_and_a_row_of_nothing_costs_none(tmp_path: Path):
    rows = [
        b" = One = \n",
        b" \xff \n",
        None,
        b" = Two = \n",
        None,
        b" na\xc3",
        b"\xafve \n",
        b" = \xff = \n",
    ]
    pq.write_table(pa.table({"text": pa.array(rows, pa.binary())}), tmp_path / "a.parquet")

    def found(errors: str) -> list:
        document_start = "^ = [^=].* = $"
        return read(tmp_path / "a.parquet", "parquet", 0, 1, document_start=document_start, errors=errors)

    assert found("drop") == [Drop.UNDECODABLE, " = Two = \n naïve \n", Drop.UNDECODABLE]
    assert found("replace")[0] == " = One = \n \ufffd \n"
    with pytest.raises(DatasetError, match=r"a\.parquet: byte 11 is not UTF-8"):
        found("strict")
