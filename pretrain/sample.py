"""Let a trained model go on from a prompt.

python -m pretrain.sample run_dir=RUN prompt="import os" [tokens=100] [temperature=0.8] [top_k=50] [top_p=0.9]
                          [seed=0] [samples=1] [stop=['END']] [prompts_file=FILE]
python -m pretrain.sample hf=FOLDER form=translate "examples=['cheese => fromage']" prompt=bread

The prompt is taken as it stands: no character in it has a meaning of its own.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from conf import compose, typed
from conf.command import run as run_command
from conf.exits import ConfigError
from data_prep.tokenizer import Tokenizer, load_tokenizer
from pretrain import trained
from pretrain.generation import Drawing, Stop, drawn_tokens, generators
from pretrain.key_value_cache import KeyValueCache
from pretrain.model import GPT
from pretrain.prompts import FORMS, asked

_STREAM = ("auto", "always", "never")


@dataclass(frozen=True)
class SampleConfig:
    """Which model, and how its words are drawn."""

    run_dir: str | None = None
    hf: str | None = None
    checkpoint: str = "newest"
    prompt: str = ""
    prompts_file: str | None = None
    form: str | None = None
    examples: list[str] = field(default_factory=list)
    tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    stop: list[str] = field(default_factory=list)
    seed: int = 0
    samples: int = 1
    stream: str = "auto"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, not {self.samples}")
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed {self.seed} is not in [0, 2**31)")
        if self.form is not None and self.form not in FORMS:
            raise ValueError(f"form '{self.form}' is not one of: {', '.join(FORMS)}; null takes the prompt")
        if self.stream not in _STREAM:
            raise ValueError(f"stream '{self.stream}' is not one of: {', '.join(_STREAM)}")
        _ = self.drawing

    @property
    def drawing(self) -> Drawing:
        """Return how tokens are drawn: as the form does it, but for what is given."""
        drawing = FORMS[self.form].drawing if self.form else Drawing()
        names = ("tokens", "temperature", "top_k", "top_p")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if given.get("top_k") == 0:
            given["top_k"] = None
        return replace(drawing, **given)

    @property
    def stops(self) -> list[str]:
        """Return the words before which a sample ends."""
        return [*self.stop, *(FORMS[self.form].stop if self.form else ())]


def main(overrides: list[str]) -> None:
    """Print each sample, prompt included."""
    # Not through Hydra, whose grammar would stumble over the first parenthesis of a prompt.
    prompts = [each.removeprefix("prompt=") for each in overrides if each.startswith("prompt=")]
    others = [each for each in overrides if not each.startswith("prompt=")]
    config = replace(typed(SampleConfig, compose("sample", others)), prompt="".join(prompts[-1:]))
    tokenizer = load_tokenizer()
    model, _ = trained.chosen(run_dir=config.run_dir, hf=config.hf, checkpoint=config.checkpoint)
    between = ""
    if not (prompts or config.prompts_file or config.form):
        print("no prompt=… is given: a text of the model's own, from its beginning", file=sys.stderr)
    for prompt in _prompts(config):
        text = asked(config.form, prompt, config.examples)
        if _streams(config):
            print(between + text, end="", flush=True)
            for part in streamed(model, text, config, tokenizer):
                print(part, end="", flush=True)
            print()
        else:
            for sample in samples(model, text, config, tokenizer):
                print(between + text + sample)
                between = "---\n"
        between = "---\n"


def samples(model: GPT, prompt: str, config: SampleConfig, tokenizer: Tokenizer) -> list[str]:
    """Return what the model writes after the prompt, `config.samples` times."""
    texts = [Stop(config.stops, tokenizer.decode, tokenizer.end_of_text) for _ in range(config.samples)]
    for tokens in _drawn(model, prompt, config, tokenizer):
        for text, token in zip(texts, tokens, strict=True):
            text.add(token)
        if all(text.ended for text in texts):
            break
    return [text.text for text in texts]


def streamed(model: GPT, prompt: str, config: SampleConfig, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield a single sample in the parts in which it becomes certain; joined they are `samples(…)[0]`."""
    text, shown = Stop(config.stops, tokenizer.decode, tokenizer.end_of_text), 0
    for (token,) in _drawn(model, prompt, replace(config, samples=1), tokenizer):
        text.add(token)
        settled = text.settled
        yield settled[shown:]
        shown = max(shown, len(settled))
        if text.ended:
            break
    yield text.text[shown:]


def _drawn(model: GPT, prompt: str, config: SampleConfig, tokenizer: Tokenizer) -> Iterator[list[int]]:
    device = model.wte.weight.device

    def logits(inputs: Tensor, cache: KeyValueCache) -> Tensor:
        return model.logits(inputs.to(device), cache)

    # Every training document follows an end-of-text, so a prompt is the beginning of a document.
    ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    return drawn_tokens(logits, model.config, ids, config.drawing, generators(config.seed, config.samples))


def _prompts(config: SampleConfig) -> list[str]:
    if config.prompts_file is None:
        return [config.prompt]
    if config.prompt:
        raise ConfigError("prompt and prompts_file are both given; leave one out")
    try:
        lines = Path(config.prompts_file).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"prompts_file {config.prompts_file} cannot be read ({error}); give a text file"
        ) from error
    prompts = [line.replace("\\n", "\n") for line in lines if line.strip()]
    if not prompts:
        raise ConfigError(f"prompts_file {config.prompts_file} holds no prompt; write one on each line")
    return prompts


def _streams(config: SampleConfig) -> bool:
    if config.samples > 1 or config.stream == "never":
        return False
    return config.stream == "always" or sys.stdout.isatty()


if __name__ == "__main__":
    run_command(main, name="pretrain.sample", config="sample", usage=__doc__)
