"""What attention has already computed of a text, so that the next token costs one position and not all.

The space for a whole context is taken once. A cache holds the same number of tokens for each of its
sequences. Sizes: B sequences, H heads, T tokens, D = C / H channels of a head.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor


class LayerCache:
    """The keys and values of one layer."""

    def __init__(self, context: int) -> None:
        self._context = context
        self._held: tuple[Tensor, Tensor] | None = None  # keys and values, (B, H, context, D) each
        self._length = 0  # tokens of them that count

    def attended(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what new tokens, (B, H, T, D) each, see of themselves and of all before them.

        Their keys and values stay.
        """
        if self._held is None:
            batch, heads, _, channels = key.shape
            shape = (batch, heads, self._context, channels)
            self._held = key.new_empty(shape), value.new_empty(shape)
        start, end = self._length, self._length + query.shape[2]
        keys, values = self._held
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        self._length = end
        if start == 0:
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)
        keys, values = keys[:, :, :end], values[:, :, :end]
        if query.shape[2] == 1:
            return F.scaled_dot_product_attention(query, keys, values)
        # torch aligns a causal mask that is not square to the upper left; ours ends at the lower right.
        seen = torch.ones(end - start, end, dtype=torch.bool, device=query.device).tril(start)
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=seen)


class KeyValueCache:
    """The keys and values of all layers, for sequences that grow together up to `context` tokens."""

    def __init__(self, *, layers: int, context: int) -> None:
        self.layers = [LayerCache(context) for _ in range(layers)]
        self.length = 0  # tokens that the model has seen
