"""Measure what a trained model knows: the loss on a fixed set of tokens, and benchmarks.

python -m pretrain.evaluate run_dir=RUN [index=OTHER/index.json] [split=train] [tokens=N] [checkpoint=best]
python -m pretrain.evaluate run_dir=RUN tasks=[wikitext103,lambada,hellaswag] [few_shot=5] [limit=1000]
python -m pretrain.evaluate hf=FOLDER tasks=[text] files={text:FILE} [stride=256]
torchrun --standalone --nproc-per-node 8 -m pretrain.evaluate …    shares the work among 8 GPUs

The sequences of a data set are those that training validates on: the first of the split, of each source
if the run reads several. Where tasks or prompts are named, no data set is read unless it is named as well,
by index=, split= or tokens=. A run keeps its scores in RUN/evaluations.jsonl. Tasks and their files:
docs/evaluation.md.
"""

import json
import math
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from conf import compose, typed
from conf.command import run as run_command
from conf.exits import DatasetError
from data_prep.tokenizer import load_tokenizer
from pretrain import trained
from pretrain.distributed import World, joined
from pretrain.evaluation.likelihood import TokenScores
from pretrain.evaluation.suite import SIZES, EvaluationConfig, Suite
from pretrain.generation import NextLogits
from pretrain.key_value_cache import KeyValueCache
from pretrain.model import GPT
from pretrain.stream.sources import DataConfig, opened_sources
from pretrain.trained import EVALUATIONS, Trained
from pretrain.validation import ValidationConfig, opened_validation


@dataclass(frozen=True)
class EvaluateConfig:
    """Which model, and on what."""

    run_dir: str | None = None
    hf: str | None = None
    checkpoint: str = "newest"
    index: str | None = None  # None: the run's own data set
    split: str | None = None  # None: validation, unless tasks or prompts are all that is asked for
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
        if self.hf and self.on_data_set and not self.index:
            raise ValueError("hf=FOLDER has no data set of its own; add tasks=[…], or index=DIR/index.json")

    @property
    def on_data_set(self) -> bool:
        """Say whether the loss on a data set is asked for: by name, or because nothing else is."""
        named = any(each is not None for each in (self.index, self.split, self.tokens))
        return named or not (self.tasks or self.prompts)

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
            if config.on_data_set:
                for name, each in _on_data_set(model, run, config, world).items():
                    scores[name] = each
                    _say(config, run, world, name, each)
            for name in suite.names:
                scores[name] = suite.scores(name, _token_scores(model))
                _say(config, run, world, name, scores[name])
            for prompt, text in suite.samples(_next_logits(model)):
                if world.primary:
                    print(f"--- {prompt}{text}")
        if run and world.primary:
            _record(Path(str(config.run_dir)), run, config, scores)


def _on_data_set(
    model: GPT, run: Trained | None, config: EvaluateConfig, world: World
) -> dict[str, dict[str, float]]:
    """Return loss in nats per token, perplexity and bits per byte on a split, as training takes them.

    Of a run that reads several sources, the mean by weight comes first, then each as SPLIT/SOURCE.
    Raises DatasetError if the split is absent or holds no whole sequence.
    """
    data = run.config.data if run else DataConfig(sequence_tokens=model.config.context)
    if config.index:
        data = replace(data, index=config.index, mix=None, synthetic=None)
    sources, split, said = opened_sources(data), config.split or "validation", list[str]()
    most = config.tokens or (run.config.validation if run else ValidationConfig()).tokens
    size = ValidationConfig(tokens=most, micro_sequences=config.micro_sequences)
    validation = opened_validation(sources, data, size, say=said.append, split=split)
    if validation is None:
        raise DatasetError(
            f"{', '.join(source.index.location for source in sources)}: the split '{split}' holds no whole "
            f"sequence of {data.sequence_tokens} tokens; evaluate another split, or prepare with a larger "
            "validation.fraction"
        )
    if world.primary:
        print(*said, sep="\n", end="\n" if said else "", file=sys.stderr)
    loss = validation.loss(lambda inputs, targets: model(inputs, targets, reduction="sum"), world)
    scores = {split: _told(loss, validation.bits_per_byte(loss), validation.tokens)}
    for name, each in validation.by_source.items():
        scores[f"{split}/{name}"] = _told(each.loss, each.bits_per_byte, each.tokens)
    return scores


def _told(loss: float, bits_per_byte: float, tokens: int) -> dict[str, float]:
    return {"loss": loss, "ppl": math.exp(min(loss, 700.0)), "bpb": bits_per_byte, "tokens": float(tokens)}


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
