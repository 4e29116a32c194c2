"""How a text goes on: which token is drawn, from which window, and when it ends.

The model sees a window of what is written, which begins at the text's first token until the context is
full; then it jumps forward to leave half a context, and again each time it is full. Between two jumps
a token costs one position, as the cache knows the rest; a window that moved with every token would
change all positions, and cost a whole context.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.key_value_cache import KeyValueCache
from pretrain.model import GPTConfig

# int64 (B, T) that go on where the cache ends → the logits after the last of them, (B, 1, V).
NextLogits = Callable[[Tensor, KeyValueCache], Tensor]


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn."""

    tokens: int = 100  # at most
    temperature: float = 0.8  # 0 takes the most probable token
    top_k: int | None = 50  # of the most probable tokens; None considers all
    top_p: float | None = None  # the fewest tokens that together have this probability; None: all

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, not {self.tokens}")
        if not self.temperature >= 0:
            raise ValueError(
                f"temperature {self.temperature} is not 0 or more; 0 takes the most probable token"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, or null for all, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, or null for all, not {self.top_p}")


def window_start(length: int, context: int) -> int:
    """Return where the window begins that predicts the token after `length` tokens."""
    if length <= context:
        return 0
    jump = max(1, context // 2)
    return -(-(length - context) // jump) * jump


@torch.inference_mode()
def drawn_tokens(
    logits: NextLogits,
    config: GPTConfig,
    prompt: Sequence[int],
    drawing: Drawing,
    generators: Sequence[torch.Generator],
) -> Iterator[list[int]]:
    """Yield the next token of each of several texts that begin with `prompt`, one for each generator.

    The texts are independent: each draws from its own generator, on the CPU, so that it does not
    change with the number of others or the device. The caller ends them.
    """
    written = torch.tensor([list(prompt)] * len(generators), dtype=torch.int64)
    cache, seen = KeyValueCache(layers=config.layers, context=config.context), 0
    began = 0
    for _ in range(drawing.tokens):
        start = window_start(written.shape[1], config.context)
        if start != began:
            cache, seen, began = KeyValueCache(layers=config.layers, context=config.context), start, start
        seen = max(seen, start)
        after = logits(written[:, seen:], cache)[:, -1].float().cpu()  # (B, V)
        seen = written.shape[1]
        tokens = [next_token(row, drawing, each) for row, each in zip(after, generators, strict=True)]
        written = torch.cat([written, torch.tensor(tokens).unsqueeze(1)], dim=1)
        yield tokens


def next_token(logits: Tensor, drawing: Drawing, generator: torch.Generator) -> int:
    """Return one token drawn from logits (V,), sharpened by temperature and cut to the most probable.

    The cut by top_k comes first, then that by top_p (Holtzman et al., 2020) of what is left.
    """
    if drawing.temperature == 0:
        return int(logits.argmax())
    logits = logits / drawing.temperature
    if drawing.top_k is not None and drawing.top_k < len(logits):
        least = logits.topk(drawing.top_k).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if drawing.top_p is not None and drawing.top_p < 1:
        likeliest = probabilities.sort(descending=True)
        before = likeliest.values.cumsum(0) - likeliest.values
        probabilities[likeliest.indices[before >= drawing.top_p]] = 0.0
    return int(torch.multinomial(probabilities, 1, generator=generator))


def generators(seed: int, count: int) -> list[torch.Generator]:
    """Return the generator of each text; text n of a seed is the same however many there are."""
    return [torch.Generator().manual_seed((seed << 20) + number) for number in range(count)]


class Stop:
    """Where a text ends: at an end-of-text, or before one of some words."""

    def __init__(
        self, words: Sequence[str], decode: Callable[[Sequence[int]], str], end_of_text: int
    ) -> None:
        self._words = [word for word in words if word]
        self._decode = decode
        self._end_of_text = end_of_text
        self._ids: list[int] = []
        self.ended = False

    @property
    def text(self) -> str:
        """Return what has been written so far, without the word that ended it."""
        text = self._decode(self._ids)
        found = [place for word in self._words if (place := text.find(word)) >= 0]
        return text[: min(found)] if found else text

    @property
    def settled(self) -> str:
        """Return the part of `text` that no later token can change or take back."""
        text = self.text
        if self.ended:
            return text
        text = text.rstrip("\ufffd")  # the first bytes of a character that is not whole yet
        held = max((_overlap(text, word) for word in self._words), default=0)
        return text[: len(text) - held]

    def add(self, token: int) -> None:
        """Take in a token, unless the text has ended."""
        if self.ended:
            return
        if token == self._end_of_text:
            self.ended = True
            return
        self._ids.append(token)
        # A token is at least a byte, so a word that is not in the newest few is not new.
        newest = self._decode(self._ids[-max((len(w.encode()) + 1 for w in self._words), default=0) :])
        self.ended = any(word in newest for word in self._words)


def _overlap(text: str, word: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `word`."""
    return max((n for n in range(1, len(word)) if text.endswith(word[:n])), default=0)
