import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import random_model

from pretrain.key_value_cache import KeyValueCache
from pretrain.model import GPT, GPTConfig

CONTEXT = 24
CONFIG = GPTConfig(layers=3, heads=2, channels=16, context=CONTEXT, vocabulary=60, padded_vocabulary=64)


def model() -> GPT:
    return random_model(CONFIG, noise=0.2)


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(60, (batch, length), generator=torch.Generator().manual_seed(batch + length))


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.integers(1, 9), min_size=1, max_size=8), batch=st.integers(1, 3))
def test_however_a_text_is_cut_the_logits_are_those_of_the_whole(parts: list[int], batch: int):
    while sum(parts) > CONTEXT:
        parts.pop()
    gpt, text = model(), tokens(batch, sum(parts))
    whole = gpt.logits(text)
    cache = KeyValueCache(layers=CONFIG.layers, context=CONTEXT)
    done = 0
    for part in parts:
        found = gpt.logits(text[:, done : done + part], cache)
        done += part
        assert cache.length == done
        torch.testing.assert_close(found, whole[:, done - 1 : done], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_called_without_targets_the_model_gives_logits():
    gpt, text = model(), tokens(2, 5)
    assert torch.equal(gpt(text), gpt.logits(text))
    cache = KeyValueCache(layers=CONFIG.layers, context=CONTEXT)
    assert gpt(text, cache=cache).shape == (2, 1, 60)


@torch.no_grad()
def test_more_tokens_than_the_context_are_an_error():
    cache = KeyValueCache(layers=CONFIG.layers, context=CONTEXT)
    gpt = model()
    gpt.logits(tokens(1, CONTEXT), cache)
    with pytest.raises(IndexError):
        gpt.logits(tokens(1, 1), cache)


@torch.no_grad()
def test_under_autocast_the_cache_takes_its_dtype():
    gpt, text = model(), tokens(1, 6)
    cache = KeyValueCache(layers=CONFIG.layers, context=CONTEXT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = gpt.logits(text)
        gpt.logits(text[:, :5], cache)
        found = gpt.logits(text[:, 5:], cache)
    torch.testing.assert_close(found, whole[:, -1:], rtol=0.05, atol=0.3)
