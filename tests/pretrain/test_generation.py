import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.tokenizer import load_tokenizer
from pretrain.generation import Drawing, Stop, drawn_tokens, generators, next_token, window_start
from pretrain.model import GPT, GPTConfig, initialise

TINY = GPTConfig(layers=2, heads=2, channels=16, context=8, vocabulary=20, padded_vocabulary=64)
GREEDY = Drawing(tokens=40, temperature=0.0)


def model() -> GPT:
    gpt = GPT(TINY)
    initialise(gpt, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            scale = 2.0 if name.startswith("wpe") else 0.3  # else it writes the same token for ever
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return gpt.eval()


def drawn(
    drawing: Drawing, *, seed: int = 0, texts: int = 1, prompt: tuple[int, ...] = (1, 2)
) -> list[list[int]]:
    """Return the tokens of each text."""
    steps = list(drawn_tokens(model().logits, TINY, prompt, drawing, generators(seed, texts)))
    return [list(text) for text in zip(*steps, strict=True)]


@given(length=st.integers(1, 5000), context=st.integers(1, 1100))
def test_a_window_fits_the_context_and_shows_at_least_half_of_one(length: int, context: int):
    start = window_start(length, context)
    assert 1 <= length - start <= context
    assert start == 0 if length <= context else length - start > context - max(1, context // 2)


@pytest.mark.parametrize("prompt", [(1,), (1, 2, 3), tuple(range(8)), tuple(range(19))])
def test_greedy_with_the_cache_is_full_recomputation_token_by_token(prompt: tuple[int, ...]):
    """Past the context too, where the window jumps."""
    gpt, ids = model(), list(prompt)
    with torch.no_grad():
        for _ in range(GREEDY.tokens):
            window = ids[window_start(len(ids), TINY.context) :]
            ids.append(int(gpt.logits(torch.tensor([window]))[0, -1].argmax()))
    assert drawn(GREEDY, prompt=prompt) == [ids[len(prompt) :]]
    assert len(set(ids[len(prompt) :])) > 2, "a text that says something"


def test_a_token_costs_one_position_but_where_the_window_jumps():
    widths = []

    def logits(inputs: torch.Tensor, cache: object) -> torch.Tensor:
        widths.append(inputs.shape[1])
        return torch.zeros(1, 1, 20)

    list(drawn_tokens(logits, TINY, (1, 2), Drawing(tokens=15), generators(0, 1)))
    assert widths == [2, 1, 1, 1, 1, 1, 1, 5, 1, 1, 1, 5, 1, 1, 1]


def test_the_seed_decides_what_is_drawn_and_a_text_does_not_know_of_the_others():
    drawing = Drawing(tokens=30, temperature=2.0, top_k=None)
    first, second = drawn(drawing, seed=3, texts=2)
    assert first != second
    assert drawn(drawing, seed=3) == [first]
    assert drawn(drawing, seed=3, texts=3)[:2] == [first, second]
    assert drawn(drawing, seed=4) != [first]


def test_no_token_of_the_padding_is_ever_drawn():
    (text,) = drawn(Drawing(tokens=300, temperature=100.0, top_k=None))
    assert max(text) < TINY.vocabulary


LOGITS = torch.tensor([0.1, 1.0, 0.5, -2.0, 0.8])


def frequencies(drawing: Drawing) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([next_token(LOGITS, drawing, generator) for _ in range(20_000)])
    return draws.bincount(minlength=5) / len(draws)


def test_top_k_and_temperature_make_the_distribution_that_they_promise():
    expected = torch.zeros(5)
    expected[[1, 2, 4]] = torch.softmax(LOGITS[[1, 2, 4]] / 0.5, 0)
    found = frequencies(Drawing(temperature=0.5, top_k=3))
    assert torch.allclose(found, expected, atol=0.015)
    assert found[0] == found[3] == 0


@pytest.mark.parametrize(
    ("top_p", "left"), [(0.3, [1]), (0.34, [1]), (0.36, [1, 4]), (0.8, [1, 2, 4]), (1.0, range(5))]
)
def test_top_p_leaves_the_fewest_tokens_that_have_this_probability_together(top_p: float, left: list[int]):
    """By hand: the probabilities are 0.141, 0.347, 0.210, 0.017 and 0.284."""
    probabilities = torch.softmax(LOGITS, 0)
    assert probabilities[1] == pytest.approx(0.3470, abs=1e-3)
    expected = torch.zeros(5)
    places = list(left)
    expected[places] = probabilities[places] / probabilities[places].sum()
    assert torch.allclose(
        frequencies(Drawing(temperature=1.0, top_k=None, top_p=top_p)), expected, atol=0.015
    )


@pytest.mark.parametrize(
    "wrong", [{"tokens": 0}, {"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_a_value_out_of_range_is_refused_by_its_name(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Drawing(**wrong)  # pyright: ignore[reportArgumentType]


def test_a_temperature_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="temperature"):
        Drawing(temperature=float("nan"))


TEXT = "Ein naïver Satz. STOP und 北京 🙂 END fertig"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), TEXT),
        (("STOP",), "Ein naïver Satz. "),
        (("END", "STOP"), "Ein naïver Satz. "),
        ((" 北",), "Ein naïver Satz. STOP und"),
        (("🙂",), "Ein naïver Satz. STOP und 北京 "),
        (("", "nothing of it"), TEXT),
    ],
)
def test_a_text_ends_before_a_stop_word_however_it_is_cut_into_tokens(words: tuple[str, ...], expected: str):
    """And what has been shown while it was drawn is never taken back."""
    tokenizer = load_tokenizer()
    for ids in (tokenizer.encode(TEXT), [i for c in TEXT for i in tokenizer.encode(c)]):
        stop, shown = Stop(words, tokenizer.decode, tokenizer.end_of_text), ""
        for token in [*ids, tokenizer.end_of_text, *ids]:
            stop.add(token)
            assert stop.settled.startswith(shown)
            shown = stop.settled
        assert stop.ended
        assert stop.text == shown == expected
