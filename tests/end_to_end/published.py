"""Small files in the formats in which benchmarks and corpora are published, for the commands of pages."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

WORDS = "the cat sat on the mat and looked at the dog that was in the garden of the old house by the sea"
DOCUMENTS = [f"Document {number}: {'words of a text ' * 20}\n" for number in range(400)]


def write_benchmarks(folder: Path) -> dict[str, str]:
    """Write a file for each published task, as it is published; return the files by the tasks' names."""
    lines = [" = The cat = \n", "\n", f" {WORDS} , 1 @,@ 000 times . \n"]
    parquet.write_table(pa.table({"text": lines}), folder / "wikitext.parquet")
    (folder / "ptb.txt").write_text(f" {WORDS} <unk> N times \n" * 3)
    _write_lines(
        folder / "lambada.jsonl", [{"text": f"{WORDS} {end}"} for end in ("again", "today", "still")]
    )
    for name in ("val", "train"):  # hellaswag's, which the page names so
        _write_lines(folder / f"{name}.jsonl", [_hellaswag(number) for number in range(6)])
    (folder / "notes.txt").write_text(f"{WORDS}. " * 8)
    hellaswag = str(folder / "val.jsonl")
    return {
        "wikitext2": str(folder / "wikitext.parquet"),
        "wikitext103": str(folder / "wikitext.parquet"),
        "ptb": str(folder / "ptb.txt"),
        "lambada": str(folder / "lambada.jsonl"),
        "hellaswag": hellaswag,
        "hellaswag_completion": hellaswag,
    }


def write_harness_task(folder: Path, data: str) -> None:
    """Write a task of lm-evaluation-harness: its own LAMBADA, with a file of ours as its data."""
    import lm_eval

    theirs = Path(lm_eval.__file__).parent / "tasks" / "lambada" / "lambada_openai.yaml"
    lines = {"include": str(theirs), "task": "local_lambada", "dataset_path": "json", "dataset_name": None}
    folder.mkdir()
    task = {**lines, "dataset_kwargs": {"data_files": {"test": data}}}
    (folder / "local_lambada.yaml").write_text(json.dumps(task))  # JSON is YAML


def write_corpora(folder: Path) -> None:
    """Write JSON lines, a folder of texts, and a user's own description of the former."""
    for name in ("web", "books", "conf/corpus"):
        (folder / name).mkdir(parents=True)
    _write_lines(folder / "web" / "part.jsonl", [{"text": text} for text in DOCUMENTS])
    for number in range(4):
        (folder / "books" / f"{number}.txt").write_text("".join(DOCUMENTS[number::4]))
    own = {"kind": "jsonl", "paths": ["web"], "suffixes": [".jsonl"], "text_key": "text", "errors": "strict"}
    (folder / "conf" / "corpus" / "mycorpus.yaml").write_text(json.dumps(own))


def _hellaswag(number: int) -> dict[str, Any]:
    endings = [f"sits down {number + each} times." for each in range(4)]
    context = {
        "activity_label": "Resting",
        "ctx_a": "A cat walks in.",
        "ctx_b": "it",
        "ctx": "A cat walks in. it",
    }
    return {**context, "endings": endings, "label": number % 4}


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
