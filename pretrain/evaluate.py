"""Measure the loss of a run's newest checkpoint on a fixed set of tokens.

python -m pretrain.evaluate run_dir=RUN [index=OTHER/index.json] [split=train] [tokens=N]

The sequences are those that training validates on: the first of the split. The last line printed
names the step, the tokens and the loss.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from conf import compose, typed
from conf.command import run as run_command
from conf.exits import DatasetError
from data_prep.shards import read_index
from pretrain import trained
from pretrain.distributed import joined
from pretrain.stream.data import Sequences
from pretrain.trained import Trained
from pretrain.validation import Validation, ValidationConfig


@dataclass(frozen=True)
class EvaluateConfig:
    """Which run, and on what."""

    run_dir: str
    index: str | None = None  # None: the run's own data set
    split: str = "validation"
    tokens: int | None = None  # None: as many as the run validates on
    micro_sequences: int = 8

    def __post_init__(self) -> None:
        for name in ("tokens", "micro_sequences"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


def main(overrides: list[str]) -> None:
    """Print the loss."""
    config = typed(EvaluateConfig, compose("evaluate", overrides))
    run = trained.load(Path(config.run_dir))
    metrics, tokens = evaluated(run, config)
    print(
        f"{config.run_dir} step={run.step} {config.split}: loss={metrics['loss']:.4f} "
        f"perplexity={metrics['perplexity']:.2f} over {tokens:,} tokens"
    )


def evaluated(run: Trained, config: EvaluateConfig) -> tuple[dict[str, float], int]:
    """Return the loss in nats per token and the perplexity, and over how many tokens they were taken.

    Raises DatasetError if the split is absent or holds no whole sequence.
    """
    index = read_index(config.index or run.config.data.index)
    length = run.config.data.sequence_tokens
    sequences = Sequences(index, config.split, length, cached_blocks=2)
    if not len(sequences):
        raise DatasetError(
            f"{index.directory}: the split '{config.split}' holds no whole sequence of {length} tokens; "
            "evaluate another split, or prepare with a larger validation.fraction"
        )
    size = ValidationConfig(
        tokens=config.tokens or run.config.validation.tokens, micro_sequences=config.micro_sequences
    )
    validation = Validation(sequences, size, length)
    with joined() as world, torch.no_grad(), _precision(run):
        loss = validation.loss(_summed_by(run), world)
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}, validation.tokens


def _summed_by(run: Trained) -> Callable[[Tensor, Tensor], Tensor]:
    def loss_sum(inputs: Tensor, targets: Tensor) -> Tensor:
        return run.model(inputs, targets, reduction="sum")

    return loss_sum


def _precision(run: Trained) -> torch.autocast:
    """Return the arithmetic that the run trains with; the weights are fp32 in any case."""
    enabled = run.config.precision != "fp32"
    return torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=enabled)


if __name__ == "__main__":
    run_command(main, name="pretrain.evaluate", config="evaluate", usage=__doc__)
