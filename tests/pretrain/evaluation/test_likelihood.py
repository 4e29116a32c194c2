import dataclasses

import pytest
import torch
from random_model import random_model

from pretrain.distributed import World
from pretrain.evaluation import likelihood
from pretrain.evaluation.likelihood import Answer, Asker, Request
from pretrain.model import GPT, GPTConfig

CONTEXT = 40


def model() -> GPT:
    return random_model(
        GPTConfig(layers=1, heads=2, channels=16, context=CONTEXT, vocabulary=60, padded_vocabulary=64)
    )


def requests() -> list[Request]:
    """Return requests of all lengths, some longer than the context, some that greedy decoding writes."""
    generator, gpt = torch.Generator().manual_seed(0), model()
    found = []
    for number in range(23):
        context = torch.randint(60, (1 + 2 * number,), generator=generator).tolist()
        continuation = torch.randint(60, (1 + number % 4,), generator=generator).tolist()
        if number % 3 == 0:
            with torch.no_grad():
                continuation = [int(gpt.logits(torch.tensor([context[-CONTEXT:]]))[0, -1].argmax())]
        found.append(Request(context, continuation))
    return found


@torch.no_grad()
def by_hand(request: Request) -> Answer:
    tokens = [*request.context, *request.continuation][-(CONTEXT + 1) :]
    rows = model().logits(torch.tensor([tokens[:-1]]))[0].log_softmax(-1)[-len(request.continuation) :]
    pairs = list(zip(rows, request.continuation, strict=True))
    nats = -sum(float(row[token]) for row, token in pairs)
    return Answer(nats, all(int(row.argmax()) == token for row, token in pairs))


@pytest.mark.parametrize("sequences", [1, 5, 64])
def test_an_answer_is_what_the_logits_say_in_whatever_batch(world: World, sequences: int):
    gpt = model()
    asker = Asker(lambda i, t: gpt(i, t, "none"), world, context=CONTEXT, sequences=sequences)
    answers = asker.answers(requests())
    expected = [by_hand(request) for request in requests()]
    assert [each.nats for each in answers] == pytest.approx([each.nats for each in expected], rel=1e-5)
    assert [each.greedy for each in answers] == [each.greedy for each in expected]
    assert {each.greedy for each in answers} == {True, False}


@pytest.mark.parametrize("ranks", [2, 3, 11])
def test_the_ranks_share_the_work_in_equally_many_forward_passes(
    world: World, ranks: int, monkeypatch: pytest.MonkeyPatch
):
    gpt, calls, parts = model(), [0] * ranks, []
    alone = Asker(lambda i, t: gpt(i, t, "none"), world, context=CONTEXT, sequences=4).answers(requests())

    def kept(_: World, *values: float) -> list[float]:
        parts.append(torch.tensor(values))
        return list(values)

    monkeypatch.setattr(likelihood, "summed", kept)
    for rank in range(ranks):

        def scores(inputs: torch.Tensor, targets: torch.Tensor, rank: int = rank) -> torch.Tensor:
            calls[rank] += 1
            return gpt(inputs, targets, "none")

        here = dataclasses.replace(world, rank=rank, size=ranks)
        Asker(scores, here, context=CONTEXT, sequences=4).answers(requests())
    assert len(set(calls)) == 1
    total = torch.stack(parts).sum(0)
    count = len(alone)
    assert total[:count].tolist() == pytest.approx([each.nats for each in alone], rel=1e-5)
    assert total[count:].tolist() == [float(each.greedy) for each in alone]


def test_nothing_asked_is_nothing_answered(world: World):
    assert Asker(lambda i, _: i, world, context=8, sequences=2).answers([]) == []
