import gzip
import json
from collections.abc import Callable
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import regex
from corpora import as_jsonl, documents
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.exits import Exit
from data_prep import contamination, prepare
from data_prep.contamination import eight_grams, load_evaluation
from data_prep.index import read_index

Make = Callable[..., Path]
Called = Callable[..., tuple[int, str]]
QUESTION = "A man is sitting on a roof. He starts pulling up roofing on the roof, then he rests a while."


def reference(text: str) -> set[tuple[str, ...]]:
    """Return the 8-grams of a text, by regular expression."""
    plain = normalize("NFKC", normalize("NFKC", text).casefold())
    words = regex.findall(r"[\p{L}\p{M}\p{N}]+", plain)
    return {tuple(words[n : n + 8]) for n in range(len(words) - 7)}


@given(
    st.lists(st.text(alphabet="aAbB01 .,-\n'’—_éÉ\u0301ßſﬁİ٣²ﷺक्ष北🙂", max_size=60), min_size=2, max_size=2),
    st.integers(10, 60),
)
@settings(max_examples=300, deadline=None)
def test_two_texts_share_the_8_grams_that_a_regular_expression_finds(texts: list[str], part_bytes: int):
    sets = [reference(text) for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        found = [eight_grams(text.encode()) for text in texts]
        assert [len(np.unique(grams)) for grams in found] == [len(grams) for grams in sets]
        assert len(np.intersect1d(*found)) == len(sets[0] & sets[1])
        if all(len(word) < 5 for text in texts for word in text.split()):
            patch.setattr(contamination, "_PART_BYTES", part_bytes)  # cut between words: nothing changes
            assert [grams.tolist() for grams in found] == [eight_grams(t.encode()).tolist() for t in texts]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("“It's” a dog’s life", '"It’s" a dog\'s life'),
        ("alpha-beta gamma – delta—epsilon", "alpha beta, gamma delta epsilon"),
        ("École normale SUPÉRIEURE", "e\u0301cole normale supe\u0301rieure"),
        ("Straße ﬁnden ΣΊΣΥΦΟΣ", "STRASSE finden σίσυφος"),
        ("one\u00a0two three\u2009four\u2028five\u3000six seven", "one two three four five six seven"),
    ],
)
def test_two_ways_to_type_a_text_are_one(one: str, other: str):
    texts = [f"{text} and then some more of it, all of it." for text in (one, other)]
    assert len(eight_grams(texts[0].encode())) > 1
    assert eight_grams(texts[0].encode()).tolist() == eight_grams(texts[1].encode()).tolist()


def test_a_long_text_without_spaces_is_cut_between_characters_and_one_that_grows_fits():
    for text in ("北" * 300_000, "ﷺ" * 100_000 + " words", "é" * 70_001):
        assert len(eight_grams((text + " one two three four five six seven").encode())) > 0


def test_case_and_punctuation_do_not_hide_a_text():
    shouted = QUESTION.upper().replace(" ", " -- ").replace(".", "!")
    assert eight_grams(QUESTION.encode()).tolist() == eight_grams(shouted.encode()).tolist()


def test_an_evaluation_text_planted_in_the_corpus_is_found_reported_and_dropped(make: Make, tmp_path: Path):
    evaluation = tmp_path / "hellaswag.jsonl.gz"
    other = {"ctx": "one two three four five six seven eight nine ten", "endings": ["short", "text"]}
    evaluation.write_bytes(gzip.compress("\n".join(map(json.dumps, [{"ctx": QUESTION}, other])).encode()))
    (tmp_path / "clean.txt").write_text(
        "this text of more than eight words is in no corpus that anyone knows of"
    )
    planted = ["Copied: " + QUESTION, " ".join(documents(5)) + QUESTION]  # the second holds little of it
    paths = [
        as_jsonl(tmp_path / f"{n}.jsonl", [*documents(20, seed=n), *planted[n : n + 1]]) for n in range(4)
    ]
    sets = (
        f"+decontamination.sets.hellaswag={evaluation}",
        f"+decontamination.sets.clean={tmp_path}/clean.txt",
    )
    output = make(paths, *sets, tasks=3, name="data")
    index = read_index(output)
    grams = len(reference(QUESTION)) + 3
    assert index.counts["documents_dropped"]["contaminated"] == 1
    assert index.overlap["hellaswag"] == {
        "eight_grams": grams,
        "in_corpus": len(reference(QUESTION)),
        "in_kept": len(reference(QUESTION)),
    }
    assert index.overlap["clean"]["in_corpus"] == 0
    strict = read_index(make(paths, *sets, "decontamination.drop_above=0", name="strict"))
    assert strict.counts["documents_dropped"]["contaminated"] == 2
    assert strict.overlap["hellaswag"]["in_kept"] == 0


def test_evaluation_sets_belong_to_the_plan(tmp_path: Path, exit_line: Called):
    as_jsonl(tmp_path / "a.jsonl", documents(30))
    (tmp_path / "eval.txt").write_text(QUESTION)
    arguments = [
        *("corpus=jsonl", f"corpus.paths=[{tmp_path}/a.jsonl]", f"output={tmp_path}/data", "workers=1"),
        f"+decontamination.sets.roof={tmp_path}/eval.txt",
    ]
    prepare.main([*arguments, "task_count=2"])
    (tmp_path / "eval.txt").write_text(QUESTION + " and more words than there were before")
    load_evaluation.cache_clear()
    code, line = exit_line("prepare", *arguments, "task_count=2", "task_index=1")
    assert code == Exit.CONFIG
    assert "decontamination.sets" in line


@pytest.mark.parametrize(
    ("name", "content"), [("none.txt", None), ("a.json", "{"), ("a.jsonl", "x"), ("a.txt", "too few words")]
)
def test_a_file_that_is_no_evaluation_set_is_one_line(
    name: str, content: str | None, tmp_path: Path, exit_line: Called
):
    as_jsonl(tmp_path / "c.jsonl", ["text"])
    if content is not None:
        (tmp_path / name).write_text(content)
    code, line = exit_line(
        *("prepare", "corpus=jsonl", f"corpus.paths=[{tmp_path}/c.jsonl]", f"output={tmp_path}/data"),
        f"+decontamination.sets.it={tmp_path}/{name}",
    )
    assert (code, line.count("\n")) == (Exit.DATASET, 1)
    assert name in line
