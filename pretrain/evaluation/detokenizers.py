"""How the text of a tokenised benchmark was written before it was tokenised.

A GPT-2 has never seen "do n't" or " @-@ ". Its paper (Radford et al., 2019, section 3.1) therefore
scores WikiText and Penn Treebank through invertible de-tokenisers, worth 2.5 to 5 of perplexity.
They are not published; these are the rules that Megatron-LM (tasks/zeroshot_gpt/detokenizer.py)
and lm-evaluation-harness (tasks/wikitext/preprocess_wikitext.py) use, in their order, but for one: see
`penn_treebank`.
"""

import re

_WIKITEXT_BEFORE = (
    ("s '", "s'"),
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    *((f" {mark} ", f"{mark} ") for mark in (":", ";", ".", "!", "?", ",")),
)
_WIKITEXT_PAIRS = (
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
)
_WIKITEXT_AFTER = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)
_PENN_TREEBANK = (
    (" '", "'"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" n't", "n't"),
)
_PENN_TREEBANK_NUMBER = re.compile(r"(?<!\S)N(?!\S)")
_PENN_TREEBANK_SIGNS = (("$ 1", "$1"), ("# 1", "#1"))


def wikitext(text: str) -> str:
    """Return WikiText as Wikipedia wrote it."""
    text = _replaced(text, _WIKITEXT_BEFORE)
    for pattern, replacement in _WIKITEXT_PAIRS:
        text = re.sub(pattern, replacement, text)
    return _replaced(text, _WIKITEXT_AFTER)


def penn_treebank(text: str) -> str:
    """Return the Penn Treebank's sentences with their words joined as in print, and 1 for each number.

    They stay lower-case, without quotation marks, their rare words `<unk>`. A number, which the corpus
    writes N, keeps its space but after $ and #. Megatron's rule, `" N "` to `"1 "`, takes the space of all
    ("sales of1 units") and misses an N that ends a line or follows another; what it then does to "$ 1"
    and "# 1" shows that this was not meant. A perplexity by its rule is another one than by this.
    """
    text = _replaced(text, _PENN_TREEBANK)
    return _replaced(_PENN_TREEBANK_NUMBER.sub("1", text), _PENN_TREEBANK_SIGNS)


def _replaced(text: str, rules: tuple[tuple[str, str], ...]) -> str:
    for old, new in rules:
        text = text.replace(old, new)
    return text
