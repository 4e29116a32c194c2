"""Where documents begin in a batch of tokens, and which positions see each other because of it.

Every end-of-text token begins a document (`docs/shard_format.md`), so the tokens themselves tell. A
sequence that begins inside a document shows its rest as a document of its own. With this mask the
logits of a document are those of the document alone, whatever stands before it in the sequence.

Sizes: B sequences, T tokens, H heads, D channels of a head.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


class Documents(NamedTuple):
    """What a model needs to keep documents apart."""

    positions: Tensor  # int64 (B, T): of each token in its document
    mask: Tensor | BlockMask  # bool (B, 1, T, T), True where a query may see a key; sparse on a GPU


def documents(inputs: Tensor, end_of_text: int) -> Documents:
    """Return the positions and the causal mask of the documents in `inputs`, int64 (B, T)."""
    begins = inputs == end_of_text
    places = torch.arange(inputs.shape[1], device=inputs.device)
    starts = torch.where(begins, places, 0).cummax(dim=1).values  # a sequence's beginning is a start, too
    mask = sparse_mask(starts) if inputs.device.type == "cuda" else full_mask(starts)
    return Documents(places - starts, mask)


def attention_within(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | BlockMask) -> Tensor:
    """Return softmax(query · keyᵀ / √D) · value, (B, H, T, D), over what `mask` lets each query see."""
    if isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    kernel = flex_attention if torch.compiler.is_compiling() else _kernel()  # or what compiles the model does
    return kernel(query, key, value, block_mask=mask)


def full_mask(starts: Tensor) -> Tensor:
    """Return the mask of every pair, bool (B, 1, T, T), for int64 (B, T) places where documents begin."""
    places = torch.arange(starts.shape[1], device=starts.device)
    same = starts.unsqueeze(2) == starts.unsqueeze(1)
    return (same & (places.unsqueeze(1) >= places)).unsqueeze(1)


def sparse_mask(starts: Tensor) -> BlockMask:
    """Return FlexAttention's mask of the same.

    128 × 128 blocks in which nobody sees anybody are never computed.
    """

    def sees(sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (starts[sequence, query] == starts[sequence, key])

    batch, tokens = starts.shape
    return create_block_mask(sees, batch, None, tokens, tokens, device=str(starts.device))


@cache
def _kernel() -> Callable[..., Tensor]:
    """Return FlexAttention, compiled: eager, it would write the whole (T, T) score matrix."""
    return torch.compile(flex_attention, dynamic=False)
