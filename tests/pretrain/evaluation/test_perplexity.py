"""Long texts: which windows score them, and the same number from transformers' own loop."""

import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_model import exported, model, scores

from data_prep.tokenizer import load_tokenizer
from pretrain.distributed import World
from pretrain.evaluation import detokenizers
from pretrain.evaluation.likelihood import Asker
from pretrain.evaluation.perplexity import Text, perplexities, windows

transformers = pytest.importorskip("transformers")
WORDS = "the of , and . a ' in \" to it = was ( for ) on you @-@ he be with as by at"


@given(length=st.integers(0, 200), context=st.integers(1, 40), stride=st.integers(1, 40))
def test_every_token_is_scored_once_in_a_window_that_fits(length: int, context: int, stride: int):
    stride = min(stride, context)
    tokens = list(range(1, length + 1))
    found = list(windows(tokens, context=context, stride=stride, first=0))
    assert [token for window in found for token in window.continuation] == tokens
    for window in found:
        shown = [*window.context, *window.continuation]
        assert len(window.context) >= 1
        assert len(shown) <= context + 1
        assert shown == list(range(shown[0], shown[-1] + 1)), "one piece of the text"
        assert len(shown) == context + 1 or shown[0] == 0, "as much before it as there is room for"


def test_without_a_stride_the_windows_are_those_of_the_harness():
    """lm_eval.utils.get_rolling_token_windows(…, context_len=1), by hand."""
    found = list(windows([1, 2, 3, 4, 5, 6, 7], context=3, stride=3, first=0))
    assert [(list(a), list(b)) for a, b in found] == [([0], [1, 2, 3]), ([3], [4, 5, 6]), ([4, 5, 6], [7])]


@torch.no_grad()
def strided_loop(folder: Path, text: str, stride: int) -> float:
    """Return the perplexity by a loop of its own over the export, each token scored in its window."""
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(tokenizer.eos_token + text, return_tensors="pt")["input_ids"]
    context, total, scored = theirs.config.n_positions, 0.0, 1
    while scored < ids.shape[1]:
        end = min(scored + (context if scored == 1 else stride), ids.shape[1])
        window = ids[:, max(0, end - 1 - context) : end]
        logits = theirs(window[:, :-1]).logits[0, -(end - scored) :]
        total += float(logits.log_softmax(-1).gather(1, window[0, -(end - scored) :, None]).sum())
        scored = end
    return math.exp(-total / (ids.shape[1] - 1))


@pytest.mark.soak
@pytest.mark.parametrize("stride", [16])
def test_the_perplexity_is_that_of_a_loop_with_transformers_on_the_export(
    world: World, tmp_path: Path, stride: int
):
    chance = random.Random(0)
    original = " \n ".join(" ".join(chance.choices(WORDS.split(), k=60)) for _ in range(8))
    text = detokenizers.wikitext(original)
    asker = Asker(scores(model()), world, context=64, sequences=3)
    found = perplexities([Text(text, original)], asker, load_tokenizer(), stride)
    assert found["ppl"] == pytest.approx(strided_loop(exported(tmp_path), text, stride), rel=1e-4)
    nats = math.log(found["ppl"]) * found["tokens"]
    assert math.log(found["word_ppl"]) == pytest.approx(nats / len(original.split()), rel=1e-9)
    assert found["bpb"] == pytest.approx(nats / math.log(2) / len(original.encode()), rel=1e-9)
