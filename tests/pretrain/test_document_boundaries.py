"""Documents in one sequence do not see each other."""

from dataclasses import replace

import pytest
import torch
from random_model import random_model
from torch.nn.attention.flex_attention import flex_attention

from pretrain.cross_entropy import IGNORED
from pretrain.documents import attention_within, documents, sparse_mask
from pretrain.model import GPT, GPTConfig

END = 50
CONFIG = GPTConfig(layers=3, heads=2, channels=32, context=96, vocabulary=60, padded_vocabulary=64)


def model(end_of_text: int | None = END) -> GPT:
    return random_model(CONFIG, end_of_text=end_of_text)


def words(count: int, seed: int) -> torch.Tensor:
    return torch.randint(END, (count,), generator=torch.Generator().manual_seed(seed))


def made(lengths: list[int], seed: int = 0) -> list[torch.Tensor]:
    """Return documents of so many words, each behind its end-of-text."""
    end = torch.tensor([END])
    return [torch.cat([end, words(length, seed + n)]) for n, length in enumerate(lengths)]


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[30], [5, 40, 20], [0, 0, 7, 1, 60], [95 - 2, 0]])
def test_the_logits_of_a_document_are_those_of_the_document_alone(lengths: list[int]):
    gpt, parts = model(), made(lengths)
    packed = gpt.logits(torch.cat(parts)[None])[0].split([len(part) for part in parts])
    for part, found in zip(parts, packed, strict=True):
        torch.testing.assert_close(found, gpt.logits(part[None])[0], rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_document_alone_is_what_a_plain_gpt2_makes_of_it():
    """So a checkpoint trained with the mask is exported and evaluated like any other."""
    (document,) = made([70])
    torch.testing.assert_close(
        model().logits(document[None]), model(end_of_text=None).logits(document[None]), rtol=0, atol=2e-5
    )


@torch.no_grad()
def test_without_the_mask_a_document_is_changed_by_the_one_before():
    first, second = made([20, 20])
    plain = model(end_of_text=None)
    together = plain.logits(torch.cat([first, second])[None])[0, len(first) :]
    assert (together - plain.logits(second[None])[0]).abs().max() > 1


@torch.no_grad()
def test_the_rest_of_a_document_that_a_sequence_begins_in_is_one_of_its_own():
    gpt, rest, (whole,) = model(), words(10, 5), made([20])
    found = gpt.logits(torch.cat([rest, whole])[None])[0]
    torch.testing.assert_close(found[:10], gpt.logits(rest[None])[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(found[10:], gpt.logits(whole[None])[0], rtol=0, atol=2e-5)


def test_a_gradient_stays_in_its_document():
    gpt, (first, second) = model(), made([12, 12])
    inputs = torch.cat([first, second])[None]
    targets = torch.full_like(inputs, IGNORED)
    targets[0, -1] = 3
    gpt(inputs, targets).backward()
    seen = set(inputs[0, len(first) :].tolist())
    only_before = [token for token in first.tolist() if token not in seen]
    # The tied head touches every row a little; what came through the inputs is far larger.
    through_head = gpt.wte.weight.grad[[token for token in range(END) if token not in inputs]].abs().max()
    assert only_before
    assert gpt.wte.weight.grad[only_before].abs().max() <= 2 * through_head
    assert gpt.wpe.weight.grad[: len(second)].abs().sum() > 0
    assert gpt.wpe.weight.grad[len(second) :].abs().sum() == 0, "positions begin anew"


def test_positions_count_from_each_end_of_text():
    inputs = torch.tensor([[1, 2, END, 3, END, END, 4], [END, 1, 2, 3, 4, 5, 6]])
    found = documents(inputs, END)
    assert found.positions.tolist() == [[0, 1, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_mask_that_a_gpu_is_given_is_that_of_the_cpu():
    """FlexAttention's eager arithmetic runs anywhere; its compiled kernel only on a GPU."""
    inputs = torch.stack([torch.cat(made([20, 50, 23])), torch.cat(made([60, 3, 30], seed=9))])
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(2, 2, 96, 16, generator=generator) for _ in range(3))
    found = documents(inputs, END)
    sparse = sparse_mask(torch.arange(96) - found.positions)
    torch.testing.assert_close(
        attention_within(query, key, value, found.mask), flex_attention(query, key, value, block_mask=sparse)
    )


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.filterwarnings("error:Dynamo:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does it
@pytest.mark.parametrize("whole", [False, True], ids=["the kernel alone", "the whole model in one graph"])
def test_compiled_as_on_a_gpu_a_document_is_what_it_is_alone(whole: bool, monkeypatch: pytest.MonkeyPatch):
    """Inductor compiles FlexAttention's forward pass for a CPU as well."""
    gpt, parts = (
        random_model(replace(CONFIG, context=256, channels=128), end_of_text=END),
        made([90, 0, 38, 124]),
    )
    alone = torch.cat([gpt.logits(part[None])[0] for part in parts])
    monkeypatch.setattr("pretrain.documents.full_mask", sparse_mask)
    torch._dynamo.reset()
    logits = torch.compile(gpt.logits, fullgraph=True, dynamic=False) if whole else gpt.logits
    torch.testing.assert_close(logits(torch.cat(parts)[None])[0], alone, rtol=0, atol=2e-4)


def test_a_micro_batch_of_which_nothing_counts_has_no_loss_and_no_gradient():
    gpt, (document,) = model(), made([20])
    loss = gpt(document[None], torch.full_like(document[None], IGNORED))
    loss.backward()
    assert loss == 0
    assert all(float(p.grad.abs().sum()) == 0 for p in gpt.parameters() if p.grad is not None)
