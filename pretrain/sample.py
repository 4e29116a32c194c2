"""Let a run's newest checkpoint go on from a prompt.

python -m pretrain.sample run_dir=RUN prompt="import os" [tokens=100] [temperature=0.8] [top_k=50]
                          [seed=0] [samples=1]

The prompt is taken as it stands: no character in it has a meaning of its own.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from conf import compose, typed
from conf.command import run as run_command
from data_prep.tokenizer import load_tokenizer
from pretrain import trained
from pretrain.model import GPT


@dataclass(frozen=True)
class SampleConfig:
    """Which run, and how its words are drawn."""

    run_dir: str
    prompt: str = ""
    tokens: int = 100  # at most; an end-of-text ends a sample before
    temperature: float = 0.8  # 0 takes the most probable token
    top_k: int | None = 50  # None considers all
    seed: int = 0
    samples: int = 1

    def __post_init__(self) -> None:
        for name in ("tokens", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.temperature >= 0:
            raise ValueError(
                f"temperature {self.temperature} is not 0 or more; 0 takes the most probable token"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, or null for all, not {self.top_k}")


def main(overrides: list[str]) -> None:
    """Print each sample, prompt included."""
    # Not through Hydra, whose grammar would stumble over the first parenthesis of a prompt.
    prompts = [each.removeprefix("prompt=") for each in overrides if each.startswith("prompt=")]
    others = [each for each in overrides if not each.startswith("prompt=")]
    config = replace(typed(SampleConfig, compose("sample", others)), prompt="".join(prompts[-1:]))
    tokenizer = load_tokenizer()
    run = trained.load(Path(config.run_dir))
    # Every training document follows an end-of-text, so a prompt is the beginning of a document.
    prompt = [tokenizer.end_of_text, *tokenizer.encode(config.prompt)]
    generator = torch.Generator(run.device).manual_seed(config.seed)
    for number in range(config.samples):
        if number:
            print("---")
        ids = completed(run.model, prompt, config, end_of_text=tokenizer.end_of_text, generator=generator)
        print(tokenizer.decode(ids[1:]))


@torch.inference_mode()
def completed(
    model: GPT, prompt: list[int], config: SampleConfig, *, end_of_text: int, generator: torch.Generator
) -> list[int]:
    """Return the prompt's tokens and those drawn after it, without the end-of-text that stopped it."""
    ids = list(prompt)
    device = model.wte.weight.device
    for _ in range(config.tokens):
        window = torch.tensor([ids[-model.config.context :]], device=device)  # (1, T)
        drawn = next_token(model.logits(window)[0, -1].float(), config, generator)
        if drawn == end_of_text:
            break
        ids.append(drawn)
    return ids


def next_token(logits: Tensor, config: SampleConfig, generator: torch.Generator) -> int:
    """Return one token drawn from logits (V,), sharpened by temperature and cut to the top k."""
    if config.temperature == 0:
        return int(logits.argmax())
    logits = logits / config.temperature
    if config.top_k is not None and config.top_k < len(logits):
        least = logits.topk(config.top_k).values[-1]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))


if __name__ == "__main__":
    run_command(main, name="pretrain.sample", config="sample", usage=__doc__)
