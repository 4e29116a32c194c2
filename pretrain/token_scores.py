"""What a model thinks of each token of a text: what it costs, and whether it would have been the guess.

A chunk of rows at a time, as the logits of a whole batch would be its largest tensor by far.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from pretrain.cross_entropy import IGNORED

_CHUNK_ROWS = 1024  # × 50,257 fp32 logits are 206 MB


def head_scores(x: Tensor, weight: Tensor, targets: Tensor, *, vocabulary: int) -> Tensor:
    """Return (N, 2), fp32: the cross-entropy of each target in nats, and 1 where it is the arg max, else 0.

    x is (N, C); weight (V', C) with V' ≥ vocabulary, of which only the first `vocabulary` rows count;
    targets int64 (N,). Both values are 0 where the target is IGNORED. Without gradients.
    """
    scores = torch.zeros(len(x), 2, device=x.device)
    for first in range(0, len(x), _CHUNK_ROWS):
        rows = slice(first, first + _CHUNK_ROWS)
        logits = F.linear(x[rows], weight)[:, :vocabulary].float()
        scores[rows, 0] = F.cross_entropy(logits, targets[rows], ignore_index=IGNORED, reduction="none")
        scores[rows, 1] = (logits.argmax(dim=1) == targets[rows]).float()
    return scores
