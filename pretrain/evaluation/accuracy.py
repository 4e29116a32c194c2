"""How answers become scores: which choice a model prefers, and what the right word costs it."""

import itertools
import math
from collections.abc import Sequence

from data_prep.tokenizer import Tokenizer
from pretrain.evaluation.examples import Example, requests
from pretrain.evaluation.likelihood import Asker


def cloze_scores(examples: Sequence[Example], asker: Asker, tokenizer: Tokenizer) -> dict[str, float]:
    """Return accuracy of greedy decoding and perplexity per answer, as LAMBADA's are. Collective."""
    answers = asker.answers([requests(example, tokenizer)[0] for example in examples])
    mean = math.fsum(answer.nats for answer in answers) / len(answers)
    return {
        "acc": sum(answer.greedy for answer in answers) / len(answers),
        "ppl": math.exp(min(mean, 700.0)),
        "examples": float(len(answers)),
    }


def choice_scores(
    examples: Sequence[Example], asker: Asker, tokenizer: Tokenizer, per: str
) -> dict[str, float]:
    """Return accuracy by the likeliest choice, and with the cost divided by the choice's length. Collective.

    The length is in "characters" of the choice without its space, as lm-evaluation-harness has it,
    or in "tokens", as llm.c has it. Of equals the first wins.
    """
    asked = [requests(example, tokenizer) for example in examples]
    answers = iter(asker.answers(list(itertools.chain.from_iterable(asked))))
    right = right_by_length = 0
    for example, own in zip(examples, asked, strict=True):
        costs = [answer.nats for answer in itertools.islice(answers, len(own))]
        if per == "tokens":
            lengths = [len(request.continuation) for request in own]
        else:
            lengths = [max(1, len(each.removeprefix(" "))) for each in example.choices]
        right += _cheapest(costs) == example.right
        right_by_length += (
            _cheapest([cost / length for cost, length in zip(costs, lengths, strict=True)]) == example.right
        )
    count = len(examples)
    return {"acc": right / count, "acc_norm": right_by_length / count, "examples": float(count)}


def _cheapest(costs: Sequence[float]) -> int:
    return min(range(len(costs)), key=costs.__getitem__)
