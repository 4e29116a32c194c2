"""What an example of a benchmark asks: a query, the texts that may follow it, and which one should.

Two kinds. A cloze has one text to follow; a choice has several. Few-shot examples stand before the
query, each with its answer, in lm-evaluation-harness's layout (Brown et al., 2020, section 2.4).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from conf.exits import DatasetError
from data_prep.tokenizer import Tokenizer
from pretrain.evaluation.likelihood import Request
from pretrain.evaluation.records import Record, field

_BETWEEN = "\n\n"  # examples


class Example(NamedTuple):
    """One question. Each choice begins with the space that separates it from the query, if there is one."""

    query: str
    choices: tuple[str, ...]
    right: int
    joined: bool = True  # query and choice are tokenised as one text; else each by itself

    @property
    def solved(self) -> str:
        """Return the query with its right answer."""
        return self.query + self.choices[self.right]


def lambada(record: Record, path: str) -> Example:
    """Return LAMBADA's question for the last word (Paperno et al., 2016), cut as the harness does."""
    before, _, word = str(field(record, "text", path)).rpartition(" ")
    return Example(before, (f" {word}",), 0)


def hellaswag(record: Record, path: str) -> Example:
    """Return HellaSwag's question (Zellers et al., 2019) in lm-evaluation-harness's words."""
    context = f"{field(record, 'ctx_a', path)} {field(record, 'ctx_b', path).capitalize()}"
    query = _without_wikihow_marks(f"{field(record, 'activity_label', path)}: {context}")
    endings = (_without_wikihow_marks(ending) for ending in field(record, "endings", path))
    return Example(query, tuple(f" {ending}" for ending in endings), _label(record, path))


def hellaswag_completion(record: Record, path: str) -> Example:
    """Return HellaSwag's question as llm.c asks it (dev/data/hellaswag.py): the texts as they stand."""
    endings = tuple(f" {ending}" for ending in field(record, "endings", path))
    return Example(field(record, "ctx", path), endings, _label(record, path), joined=False)


def choice(record: Record, path: str) -> Example:
    """Return a question of your own: {"query": …, "choices": […], "gold": number}."""
    choices = tuple(f" {each}" for each in field(record, "choices", path))
    return Example(str(field(record, "query", path)), choices, _label(record, path, "gold"))


def cloze(record: Record, path: str) -> Example:
    """Return a question of your own: {"query": …, "answer": …}."""
    return Example(str(field(record, "query", path)), (f" {field(record, 'answer', path)}",), 0)


def few_shot(examples: Sequence[Example], shots: Sequence[Example], count: int) -> list[Example]:
    """Return the examples, each behind the first `count` of `shots` that are not itself, solved."""
    if not count:
        return list(examples)
    taken = []
    for example in examples:
        before = [shot for shot in shots[: count + 1] if shot != example][:count]
        if len(before) < count:
            raise DatasetError(f"few_shot={count} wants {count} other examples, there are {len(before)}")
        solved = "".join(f"{shot.solved}{_BETWEEN}" for shot in before)
        taken.append(example._replace(query=solved + example.query))
    return taken


def requests(example: Example, tokenizer: Tokenizer) -> list[Request]:
    """Return what to ask for each choice; an empty query leaves the end-of-text before it.

    Spaces at the end of a query belong to the choice, and a choice's tokens are those by which the
    whole is longer than the query, as in lm-evaluation-harness (api/model.py, _encode_pair).
    """
    if not example.joined:
        context = tokenizer.encode(example.query) or [tokenizer.end_of_text]
        return [Request(context, tokenizer.encode(each)) for each in example.choices]
    query = example.query.rstrip()
    space = example.query[len(query) :]
    context = tokenizer.encode(query)
    found = []
    for each in example.choices:
        whole = tokenizer.encode(query + space + each)
        found.append(Request(context or [tokenizer.end_of_text], whole[len(context) :]))
    return found


def _label(record: Record, path: str, name: str = "label") -> int:
    label = field(record, name, path)
    if not str(label).isdigit():
        raise DatasetError(f"{path}: a record's '{name}' is {label!r}; a split with answers is wanted")
    return int(label)


def _without_wikihow_marks(text: str) -> str:
    """Return the text without what WikiHow's pages left in it (the harness's hellaswag/utils.py)."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
