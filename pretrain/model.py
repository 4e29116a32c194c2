"""GPT-2, to the letter: what the weights are called, how they begin, and what they compute.

Pre-LayerNorm with bias, learned positions, GELU with tanh, a head tied to the embedding, and
residual projections that begin smaller by 1/sqrt(2L) (Radford et al., 2019, section 2.3). An
export is therefore a `GPT2LMHeadModel` with equal logits. Inside, the vocabulary is padded to a
multiple of 64 for the tensor cores; the padding takes no part in the loss and is cut off at export.

Sizes: B sequences, T tokens, C channels, H heads, L layers, V vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor, nn

from pretrain.cross_entropy import IGNORED, head_loss
from pretrain.documents import Documents, attention_within, documents
from pretrain.key_value_cache import KeyValueCache, LayerCache
from pretrain.step.attention import causal_attention
from pretrain.step.recomputation import through
from pretrain.token_scores import head_scores

_INITIAL_STD = 0.02  # GPT-2's own code, model.py
EMBEDDINGS = ("wte.weight", "wpe.weight")


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT-2."""

    layers: int = 12
    heads: int = 12
    channels: int = 768
    context: int = 1024
    vocabulary: int = 50_257
    padded_vocabulary: int = 50_304
    dropout: float = 0.0
    zero_projections: bool = False  # the residual ones, at first: blocks pass their input on
    mup: bool = False  # begin and learn so that the best learning rate is the same at every width
    mup_base_channels: int = 256  # the width at which it was found; keep channels / heads as it was there

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "channels", "context", "vocabulary", "mup_base_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, not {getattr(self, name)}")
        if self.channels % self.heads:
            nearest = self.channels // self.heads * self.heads or self.heads
            raise ValueError(
                f"model.heads {self.heads} does not divide model.channels {self.channels}; use {nearest}"
            )
        if self.padded_vocabulary < self.vocabulary:
            raise ValueError(
                f"model.padded_vocabulary {self.padded_vocabulary} is smaller than "
                f"model.vocabulary {self.vocabulary}; use the next multiple of 64"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout {self.dropout} is not in [0, 1)")

    @property
    def width_ratio(self) -> float:
        """Return how many times as wide it is as the model that its learning rate was found for."""
        return self.channels / self.mup_base_channels if self.mup else 1.0


class Attention(nn.Module):
    """Causal self-attention over all heads at once."""

    def __init__(self, config: GPTConfig, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.c_attn = linear(config.channels, 3 * config.channels)
        self.c_proj = linear(config.channels, config.channels)

    def forward(self, x: Tensor, within: Documents | None = None, cache: LayerCache | None = None) -> Tensor:
        """Return (B, T, C) from (B, T, C).

        Position t sees positions 0..t, of its own document if told, and all that `cache` holds.
        """
        batch, tokens, channels = x.shape
        query, key, value = (
            part.view(batch, tokens, self.heads, channels // self.heads).transpose(1, 2)  # (B, H, T, C / H)
            for part in self.c_attn(x).split(channels, dim=2)
        )
        dropout = self.dropout if self.training else 0.0
        if cache is not None:
            y = cache.attended(query, key, value)
        elif within is None:
            y = causal_attention(query, key, value, dropout=dropout)
        else:
            y = attention_within(query, key, value, within.mask)
        y = y.transpose(1, 2).reshape(batch, tokens, channels)
        return F.dropout(self.c_proj(y), self.dropout, self.training)


class MLP(nn.Module):
    """The position-wise layer: C → 4C → C."""

    def __init__(self, config: GPTConfig, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = linear(config.channels, 4 * config.channels)
        self.c_proj = linear(4 * config.channels, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, C) from (B, T, C)."""
        y = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return F.dropout(y, self.dropout, self.training)


class Block(nn.Module):
    """One layer of the residual stream."""

    def __init__(self, config: GPTConfig, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.channels)
        self.attn = Attention(config, linear)
        self.ln_2 = nn.LayerNorm(config.channels)
        self.mlp = MLP(config, linear)

    def forward(self, x: Tensor, within: Documents | None = None, cache: LayerCache | None = None) -> Tensor:
        """Return (B, T, C) from (B, T, C)."""
        x = x + self.attn(self.ln_1(x), within, cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A GPT-2 language model. Call it for the loss; `logits` for what it predicts."""

    def __init__(
        self,
        config: GPTConfig,
        *,
        end_of_text: int | None = None,
        recompute: str = "none",
        linear: type[nn.Linear] = nn.Linear,
    ) -> None:
        """Take the token that begins a document, if documents are not to see each other.

        `recompute` is how much the backward pass computes again, see pretrain.step.recomputation; `linear` is
        what the blocks' matrices lie in, see pretrain.step.float8.
        """
        super().__init__()
        self.config = config
        self.recompute = recompute
        self._end_of_text = end_of_text
        self.wte = nn.Embedding(config.padded_vocabulary, config.channels)
        self.wpe = nn.Embedding(config.context, config.channels)
        self.h = nn.ModuleList(Block(config, linear) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.channels)

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor | None = None,
        reduction: str = "mean",
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Return the cross-entropy of `targets` in nats, fp32; without targets, `logits(inputs, cache)`.

        Both are int64 (B, T). Targets equal to IGNORED do not count. `reduction` is "mean" over the
        targets that count, "sum", or "none": then what each token costs and whether it was the most
        probable one, (B, T, 2), see `head_scores`.
        """
        if targets is None:
            return self.logits(inputs, cache)
        if reduction == "none":
            x = self._features(inputs).flatten(0, 1)  # (B · T, C)
            scores = head_scores(x, self.wte.weight, targets.flatten(), vocabulary=self.config.vocabulary)
            return scores.view(*targets.shape, 2)
        loss = self.summed_loss(inputs, targets)
        # A micro-batch of which nothing counts has a loss of 0, not of 0 / 0.
        return loss if reduction == "sum" else loss / (targets != IGNORED).sum().clamp(min=1)

    def summed_loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, summed; a method of its own, so that it can be compiled by itself."""
        x = self._features(inputs).flatten(0, 1)  # (B · T, C)
        return head_loss(x, self.wte.weight, targets.flatten(), vocabulary=self.config.vocabulary)

    def logits(self, inputs: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Return the logits (B, T, V) of every next token, without the padding, for int64 (B, T).

        With a cache, `inputs` go on where it ends, they are added to it, and only the logits after
        the last of them are returned, (B, 1, V). All that it holds is one document.
        """
        x = self._features(inputs) if cache is None else self._continued(inputs, cache)[:, -1:]
        # The product runs over the padded vocabulary, as the tensor cores like it; then the padding goes.
        return F.linear(x, self.wte.weight)[..., : self.config.vocabulary]

    def _features(self, inputs: Tensor) -> Tensor:
        within = None if self._end_of_text is None else documents(inputs, self._end_of_text)
        positions = within.positions if within else torch.arange(inputs.shape[1], device=inputs.device)
        x = self.wte(inputs) + self.wpe(positions)  # (B, T, C)
        if torch.is_autocast_enabled(x.device.type):
            # Embeddings come out in the weights' fp32. What every layer reads and writes is half as
            # long in bf16; a compiled 124M step on an H200 gains 5 % by the roofline.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.h:
            x = through(block, x, within, mode=self.recompute)
        return self.ln_f(x)

    def _continued(self, inputs: Tensor, cache: KeyValueCache) -> Tensor:
        positions = torch.arange(cache.length, cache.length + inputs.shape[1], device=inputs.device)
        x = self.wte(inputs) + self.wpe(positions)  # (B, T, C)
        for block, layer in zip(self.h, cache.layers, strict=True):
            x = block(x, None, layer)
        cache.length += inputs.shape[1]
        return self.ln_f(x)


def initialise(model: GPT, seed: int) -> None:
    """Fill the weights as GPT-2 does: normal 0.02, residual projections / sqrt(2L), biases 0.

    Every tensor draws from its own generator, on the CPU, so that the same seed gives the same
    weights on every device and however the model is sharded. With `zero_projections` the residual
    projections begin at 0 (as in Goyal et al., 2017, section 5.1, for a ResNet's last gain).

    With `mup`, matrices inside the layers begin smaller by the root of the width ratio, and the last
    LayerNorm's gain by the ratio itself: muP's output multiplier, written into a weight, so that the
    model stays a plain GPT-2 (Yang et al., 2022, "Tensor Programs V", table 8; `pretrain.optim` has the
    other half).
    """
    ratio = model.config.width_ratio
    hidden_std = _INITIAL_STD / math.sqrt(ratio)
    residual_std = hidden_std / math.sqrt(2 * model.config.layers)
    for number, (name, parameter) in enumerate(model.named_parameters()):
        if parameter.dim() < 2:
            nn.init.constant_(parameter, 1.0 if ".ln_" in f".{name}" and name.endswith("weight") else 0.0)
            continue
        generator = torch.Generator().manual_seed((seed << 20) + number)
        std = hidden_std
        if name.endswith("c_proj.weight"):
            std = 0.0 if model.config.zero_projections else residual_std
        if name in EMBEDDINGS:
            std = _INITIAL_STD
        with torch.no_grad():
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))
    with torch.no_grad():
        model.wte.weight[model.config.vocabulary :].zero_()
        model.ln_f.weight.div_(ratio)


def parameter_count(model: GPT) -> int:
    """Return the number of parameters of the exported model: the tied head once, no padding."""
    padding = (model.config.padded_vocabulary - model.config.vocabulary) * model.config.channels
    return sum(parameter.numel() for parameter in model.parameters()) - padding


def hugging_face_names(config: GPTConfig) -> Iterator[tuple[str, str, bool]]:
    """Yield (our name, `GPT2LMHeadModel`'s name, whether it stands transposed there) of every tensor.

    Hugging Face keeps OpenAI's Conv1D, whose weight is (inputs, outputs).
    """
    with torch.device("meta"):
        names = [name for name, _ in GPT(config).named_parameters()]
    for name in names:
        conv1d = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        yield name, f"transformer.{name}", conv1d
