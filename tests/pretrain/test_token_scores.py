import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from pretrain import token_scores
from pretrain.cross_entropy import IGNORED
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.token_scores import head_scores

C, V, PADDED = 16, 50, 64


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_each_token_has_its_cross_entropy_and_is_the_guess_or_not(
    chunk: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(token_scores, "_CHUNK_ROWS", chunk)
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(30, C, generator=generator), torch.randn(PADDED, C, generator=generator)
    weight[V:] = 10.0  # padding that would win every time
    logits = F.linear(x, weight)[:, :V]
    targets = torch.where(torch.arange(30) % 3 == 0, logits.argmax(1), logits.argmin(1))
    targets[4] = IGNORED
    scores = head_scores(x, weight, targets, vocabulary=V)
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    torch.testing.assert_close(scores[:, 0], expected)
    assert scores[:, 1].tolist() == [float(number % 3 == 0) for number in range(30)]
    assert scores[4].tolist() == [0.0, 0.0]


@torch.no_grad()
def test_the_scores_of_a_model_sum_to_its_loss():
    gpt = GPT(GPTConfig(layers=1, heads=2, channels=16, context=8, vocabulary=50, padded_vocabulary=64))
    initialise(gpt, 0)
    text = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(0))
    scores = gpt(text[:, :-1], text[:, 1:], "none")
    assert scores.shape == (3, 8, 2)
    torch.testing.assert_close(scores[..., 0].sum(), gpt(text[:, :-1], text[:, 1:], "sum"))
