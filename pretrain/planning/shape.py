"""What a GPT-2 of a given shape is made of: its parameters and its FLOPs per token, part by part."""

from dataclasses import dataclass

# Of the backward pass to the forward one, for products with weights: one for the inputs, one for the weights.
_FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True)
class Shape:
    """The sizes of `pretrain.model.GPTConfig`, without torch; a test holds the two together."""

    layers: int
    heads: int
    channels: int
    context: int
    vocabulary: int
    padded_vocabulary: int
    dropout: float = 0.0
    # What follows changes neither sizes nor speed.
    zero_projections: bool = False
    mup: bool = False
    mup_base_channels: int = 256

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "channels", "context", "vocabulary"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, not {getattr(self, name)}")

    @property
    def parameters(self) -> int:
        """Return the number of parameters of the exported model: the tied head once, no padding."""
        return sum(parameters(self, padded=False).values())

    @property
    def padded_parameters(self) -> int:
        """Return how many parameters lie in memory while it trains."""
        return sum(parameters(self, padded=True).values())


def parameters(shape: Shape, *, padded: bool) -> dict[str, int]:
    """Return the parameters of each part: weights, biases and LayerNorm gains."""
    channels, layers = shape.channels, shape.layers
    return {
        "token embedding, tied to the head": (shape.padded_vocabulary if padded else shape.vocabulary)
        * channels,
        "position embedding": shape.context * channels,
        "attention": layers * (4 * channels**2 + 4 * channels),
        "MLP": layers * (8 * channels**2 + 5 * channels),
        "LayerNorms": layers * 4 * channels + 2 * channels,
    }


def flops_per_token(shape: Shape, sequence_tokens: int) -> dict[str, float]:
    """Return the FLOPs of one token's forward and backward pass in each part that multiplies matrices.

    Attention's scores are counted over the whole square, as in PaLM's definition of MFU (Chowdhery
    et al., 2022, appendix B), though the causal half of it is never computed.
    """
    channels, layers = shape.channels, shape.layers
    return {
        "attention projections": _FORWARD_AND_BACKWARD * 2.0 * layers * 4 * channels**2,
        "attention scores": _FORWARD_AND_BACKWARD * 4.0 * layers * channels * sequence_tokens,
        "MLP": _FORWARD_AND_BACKWARD * 2.0 * layers * 8 * channels**2,
        "head": _FORWARD_AND_BACKWARD * 2.0 * shape.vocabulary * channels,
    }
