"""How a text longer than the context is scored: in which windows, and per which unit.

Every token is predicted once. The first window begins after an end-of-text, which is not scored; each
later one predicts up to `stride` tokens with as much text before them as the context has room for.
With stride = context (the default) the windows do not overlap, as in lm-evaluation-harness's rolling
log-likelihood; the GPT-2 paper used 32 of 1024. A smaller stride is dearer and flatters less.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data_prep.tokenizer import Tokenizer
from pretrain.evaluation.likelihood import Asker, Request

_LARGEST_EXPONENT = 700.0  # of e, that a double holds


class Text(NamedTuple):
    """A document as the model reads it, and as its publisher counts it."""

    content: str
    original: str  # before de-tokenisation: its words and bytes are the units


def windows(tokens: Sequence[int], *, context: int, stride: int, first: int) -> Iterator[Request]:
    """Yield requests that score each of `tokens` once; `first` stands before them and is not scored."""
    begun = [first, *tokens]
    done = 1  # of `begun`
    while done < len(begun):
        end = min(done + (context if done == 1 else stride), len(begun))
        yield Request(begun[max(0, end - 1 - context) : done], begun[done:end])
        done = end


def perplexities(texts: Sequence[Text], asker: Asker, tokenizer: Tokenizer, stride: int) -> dict[str, float]:
    """Return perplexity per token and per word, and bits per byte, over all texts. Collective.

    Words are what white space separates, counted as lm-evaluation-harness does, and like bytes in
    the text as published.
    """
    encoded = [tokenizer.encode(text.content) for text in texts]
    requests = [
        request
        for tokens in encoded
        for request in windows(tokens, context=asker.context, stride=stride, first=tokenizer.end_of_text)
    ]
    nats = math.fsum(answer.nats for answer in asker.answers(requests))
    count = sum(map(len, encoded))
    words = sum(len(re.split(r"\s+", text.original)) for text in texts)
    size = sum(len(text.original.encode()) for text in texts)
    return {
        "ppl": _exponential(nats / count),
        "word_ppl": _exponential(nats / words),
        "bpb": nats / math.log(2) / size,
        "tokens": float(count),
    }


def _exponential(value: float) -> float:
    return math.exp(min(value, _LARGEST_EXPONENT))
