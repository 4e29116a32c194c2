"""Measure what a trained model knows: the loss on a fixed set of tokens, and benchmarks.

python -m pretrain.evaluate run_dir=RUN [index=OTHER/index.json] [split=train] [tokens=N] [checkpoint=best]
python -m pretrain.evaluate run_dir=RUN tasks=[wikitext103,lambada,hellaswag] [few_shot=5] [limit=1000]
python -m pretrain.evaluate hf=FOLDER tasks=[text] files={text:FILE} [stride=256]
torchrun --nproc-per-node 8 -m pretrain.evaluate …    shares the work among 8 GPUs

The sequences of a data set are those that training validates on: the first of the split. A run keeps
its scores in RUN/evaluations.jsonl. Tasks and their files: docs/evaluation.md.
"""

import json
import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from conf import compose, typed
from conf.command import run as run_command
from conf.exits import ConfigError, DatasetError
from data_prep.shards import Index
from data_prep.tokenizer import load_tokenizer
from pretrain import trained
from pretrain.distributed import World, joined
from pretrain.evaluation.likelihood import TokenScores
from pretrain.evaluation.suite import SIZES, EvaluationConfig, Suite
from pretrain.generation import NextLogits
from pretrain.key_value_cache import KeyValueCache
from pretrain.model import GPT
from pretrain.stream.remote import FetchConfig
from pretrain.stream.sequences import Sequences
from pretrain.stream.sources import blocks_of, index_at, opened_sources
from pretrain.trained import EVALUATIONS, Trained
from pretrain.validation import Validation, ValidationConfig


@dataclass(frozen=True)
class EvaluateConfig:
    """Which model, and on what."""

    run_dir: str | None = None
    hf: str | None = None
    checkpoint: str = "newest"
    index: str | None = None  # None: the run's own data set
    split: str = "validation"
    tokens: int | None = None  # None: as many as the run validates on
    tasks: list[str] = field(default_factory=list)
    files: dict[str, str] | None = None
    limit: int | None = None
    few_shot: int = 0
    shots: dict[str, str] | None = None
    stride: int | None = None
    prompts: list[str] = field(default_factory=list)
    sample_tokens: int = 64
    micro_sequences: int = 8

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, not {self.tokens}")
        _ = self.benchmarks
        if self.hf and not (self.index or self.tasks or self.prompts):
            raise ValueError("hf=FOLDER has no data set of its own; add tasks=[…], or index=DIR/index.json")

    @property
    def benchmarks(self) -> EvaluationConfig:
        """Return the part that a run's `evaluation:` has, too."""
        names = ("tasks", "files", "limit", "few_shot", "shots", "stride", "prompts", "sample_tokens")
        shared = {name: getattr(self, name) for name in (*names, "micro_sequences")}
        return EvaluationConfig(**shared)


def main(overrides: list[str]) -> None:
    """Print the scores, a line for each, and record a run's."""
    config = typed(EvaluateConfig, compose("evaluate", overrides))
    trained.check_named(run_dir=config.run_dir, hf=config.hf)  # before the ranks wait for one another
    with joined() as world, torch.no_grad():
        model, run = trained.chosen(run_dir=config.run_dir, hf=config.hf, checkpoint=config.checkpoint)
        precision = "fp32" if run is None else run.config.precision
        with torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=precision != "fp32"):
            suite = Suite(config.benchmarks, world, model.config, load_tokenizer())
            scores: dict[str, dict[str, float]] = {}
            if config.index or run:
                scores[config.split] = _on_data_set(model, run, config, world)
                _say(config, run, world, config.split, scores[config.split])
            for name in suite.names:
                scores[name] = suite.scores(name, _token_scores(model))
                _say(config, run, world, name, scores[name])
            for prompt, text in suite.samples(_next_logits(model)):
                if world.primary:
                    print(f"--- {prompt}{text}")
        if run and world.primary:
            _record(Path(str(config.run_dir)), run, config, scores)


def _on_data_set(model: GPT, run: Trained | None, config: EvaluateConfig, world: World) -> dict[str, float]:
    """Return loss in nats per token, perplexity and bits per byte on a split.

    Raises DatasetError if the split is absent or holds no whole sequence.
    """
    index = _own_index(run) if run and not config.index else index_at(str(config.index))
    length = run.config.data.sequence_tokens if run else model.config.context
    blocks = blocks_of(index, run.config.data.fetch if run else FetchConfig())
    sequences = Sequences(index, config.split, length, cached_blocks=2, blocks=blocks)
    if not len(sequences):
        raise DatasetError(
            f"{index.location}: the split '{config.split}' holds no whole sequence of {length} tokens; "
            "evaluate another split, or prepare with a larger validation.fraction"
        )
    most = config.tokens or (run.config.validation if run else ValidationConfig()).tokens
    size = ValidationConfig(tokens=most, micro_sequences=config.micro_sequences)
    validation = Validation(sequences, size, length)
    loss = validation.loss(lambda inputs, targets: model(inputs, targets, reduction="sum"), world)
    return {
        "loss": loss,
        "ppl": math.exp(min(loss, 700.0)),
        "bpb": validation.bits_per_byte(loss),
        "tokens": float(validation.tokens),
    }


def _own_index(run: Trained) -> Index:
    """Return the index of the data set that a run trains on; raise ConfigError if it mixes several."""
    sources = opened_sources(run.config.data)
    if len(sources) > 1:
        listed = ", ".join(f"{source.index.location}/index.json" for source in sources)
        raise ConfigError(f"the run reads several data sets; give index= one of {listed}")
    return sources[0].index


def _token_scores(model: GPT) -> TokenScores:
    def scores(inputs: Tensor, targets: Tensor) -> Tensor:
        return model(inputs, targets, reduction="none")

    return scores


def _next_logits(model: GPT) -> NextLogits:
    def logits(inputs: Tensor, cache: KeyValueCache) -> Tensor:
        return model.logits(inputs.to(model.wte.weight.device), cache)

    return logits


def _say(
    config: EvaluateConfig, run: Trained | None, world: World, name: str, scores: dict[str, float]
) -> None:
    if not world.primary:
        return
    where = f"{config.run_dir} step={run.step}" if run else str(config.hf)
    said = " ".join(f"{key}={value:.4f}" for key, value in scores.items() if key not in SIZES)
    size = " and ".join(f"{int(scores[key]):,} {key}" for key in SIZES if key in scores)
    shots = f" {config.few_shot}-shot" if config.few_shot and "examples" in scores else ""
    print(f"{where} {name}{shots}: {said} over {size}", flush=True)


def _record(run_dir: Path, run: Trained, config: EvaluateConfig, scores: dict[str, dict[str, float]]) -> None:
    """Add the scores to the run's evaluations, one line for each task."""
    asked = {"few_shot": config.few_shot, "limit": config.limit, "stride": config.stride}
    told = {"time": round(time.time()), "step": run.step, **asked}
    lines = [json.dumps({**told, "task": name, "scores": each}) + "\n" for name, each in scores.items()]
    try:
        with (run_dir / EVALUATIONS).open("a") as file:
            file.write("".join(lines))
    except OSError as error:  # somebody else's run may be read, not written
        print(f"not recorded in {run_dir / EVALUATIONS}: {error.strerror}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main, name="pretrain.evaluate", config="evaluate", usage=__doc__)
