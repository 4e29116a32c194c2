"""What a model thinks of continuations: asked in batches, shared among all ranks, answered on each.

A request is tokens to be scored, and tokens before them that are not. As in lm-evaluation-harness, what
is longer than the context loses tokens at its beginning, and the model predicts the first scored
token from the last one before it.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.cross_entropy import IGNORED
from pretrain.distributed import World, summed

# (inputs, targets), int64 (B, T) each → (B, T, 2): the cost of each target, and whether it was the guess.
TokenScores = Callable[[Tensor, Tensor], Tensor]

_ROUND_LENGTH = 32  # tokens: padded lengths are multiples of it, so that few shapes exist


class Request(NamedTuple):
    """Tokens to score after a context of at least one."""

    context: Sequence[int]
    continuation: Sequence[int]


class Answer(NamedTuple):
    """What a continuation costs in nats, and whether greedy decoding would have written it."""

    nats: float
    greedy: bool


class Asker:
    """A model on all ranks, ready to be asked."""

    def __init__(self, scores: TokenScores, world: World, *, context: int, sequences: int) -> None:
        """Take the model's context in tokens and how many sequences one forward pass takes."""
        self._scores = scores
        self._world = world
        self._sequences = sequences
        self.context = context

    @torch.no_grad()
    def answers(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answers in the order of the requests, the same on every rank. Collective.

        Every rank makes the same number of forward passes: at ZeRO-3 each one is collective.
        """
        longest_first = sorted(range(len(requests)), key=lambda n: (-self._length(requests[n]), n))
        batches = [
            longest_first[first : first + self._sequences]
            for first in range(0, len(requests), self._sequences)
        ]
        nats, hits = [0.0] * len(requests), [0.0] * len(requests)
        for round_ in range(math.ceil(len(batches) / self._world.size)):
            place = round_ * self._world.size + self._world.rank
            mine = batches[place] if place < len(batches) else []
            for number, cost, guessed in self._asked([requests[n] for n in mine], mine):
                nats[number], hits[number] = cost, guessed
        total = summed(self._world, *nats, *hits)
        return [Answer(total[n], bool(total[len(requests) + n])) for n in range(len(requests))]

    def _length(self, request: Request) -> int:
        return min(len(request.context) + len(request.continuation) - 1, self.context)

    def _asked(self, requests: list[Request], numbers: list[int]) -> list[tuple[int, float, float]]:
        """Return (number, nats, greedy) of each request; an empty list still costs a forward pass."""
        longest = max((self._length(request) for request in requests), default=1)
        width = min(math.ceil(longest / _ROUND_LENGTH) * _ROUND_LENGTH, self.context)
        inputs = torch.zeros(self._sequences, width, dtype=torch.int64)
        targets = torch.full((self._sequences, width), IGNORED, dtype=torch.int64)
        for row, request in enumerate(requests):
            tokens = torch.tensor([*request.context, *request.continuation][-(self.context + 1) :])
            length = len(tokens) - 1
            scored = min(len(request.continuation), length)
            inputs[row, :length] = tokens[:-1]
            targets[row, length - scored : length] = tokens[length + 1 - scored :]
        device = self._world.device
        scores = self._scores(inputs.to(device), targets.to(device)).double().cpu()
        missed = ((scores[..., 1] == 0) & (targets != IGNORED)).any(dim=1)
        costs = scores[..., 0].sum(dim=1)
        return [(number, float(costs[row]), float(not missed[row])) for row, number in enumerate(numbers)]
