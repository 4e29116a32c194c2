"""In which form GPT-2 is asked for a translation, a summary or an answer (Radford et al., 2019, section 3).

The paper gives no task in words. It writes the beginning of a text in which the task has been done, and
takes what follows.
"""

from collections.abc import Sequence
from typing import NamedTuple

from conf.exits import ConfigError
from pretrain.generation import Drawing


class Form(NamedTuple):
    """A way to ask: what stands before and after a text, and what ends the reply."""

    question: str  # with {text}
    solved: str  # an example, with {text} and {reply}
    stop: tuple[str, ...]
    drawing: Drawing
    source: str


FORMS = {
    "translate": Form(
        "{text} =",
        "{text} = {reply}\n",
        ("\n",),
        Drawing(tokens=100, temperature=0.0),
        "section 3.7: pairs 'english sentence = french sentence', then greedy, the first sentence",
    ),
    "summarise": Form(
        "{text}\nTL;DR:",
        "{text}\nTL;DR: {reply}\n\n",
        (),
        Drawing(tokens=100, temperature=1.0, top_k=2),
        "section 3.6: 100 tokens with top-k 2, of which the first three sentences are the summary",
    ),
    "answer": Form(
        "Q: {text}\nA:",
        "Q: {text}\nA: {reply}\n\n",
        ("\n",),
        Drawing(tokens=32, temperature=0.0),
        "section 3.8: seeded with pairs of question and answer, greedy",
    ),
}


def asked(form: str | None, text: str, examples: Sequence[str]) -> str:
    """Return the prompt for `text` in a form of the paper, behind examples "text => reply" done in it.

    Without a form the prompt is the text. Raises ConfigError for an example without its "=>".
    """
    if form is None:
        return text
    done = []
    for example in examples:
        given, arrow, reply = example.partition("=>")
        if not arrow:
            raise ConfigError(f"the example {example!r} has no '=>'; write examples=['TEXT => REPLY']")
        done.append(_filled(FORMS[form].solved, given.strip(), reply.strip()))
    return "".join(done) + _filled(FORMS[form].question, text, "")


def _filled(layout: str, text: str, reply: str) -> str:
    """Return the layout with its places filled; braces in a user's text mean nothing."""
    before, _, after = layout.partition("{text}")
    return before + text + after.replace("{reply}", reply)
