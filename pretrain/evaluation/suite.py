"""Which benchmarks a run takes, and how often: their files are read once, by rank 0, for all ranks."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from data_prep.tokenizer import Tokenizer
from pretrain.distributed import World, on_primary
from pretrain.evaluation import tasks
from pretrain.evaluation.examples import Example, few_shot
from pretrain.evaluation.likelihood import Asker, TokenScores
from pretrain.evaluation.perplexity import Text
from pretrain.evaluation.records import Record, records
from pretrain.evaluation.tasks import TASKS
from pretrain.generation import Drawing, NextLogits, Stop, drawn_tokens, generators
from pretrain.model import GPTConfig

SIZES = ("tokens", "examples")  # among the scores: how much was scored


@dataclass(frozen=True)
class EvaluationConfig:
    """The benchmarks, their files, and how they are asked."""

    every: int = 0  # steps; 0 is only at the end
    tasks: list[str] = field(default_factory=list)
    files: dict[str, str] | None = None  # task → file or URL; else where it is published
    limit: int | None = None  # records of each task at most
    few_shot: int = 0  # solved examples before each question
    shots: dict[str, str] | None = None  # task → their file; else the task's own others
    stride: int | None = None  # tokens that a window of a long text scores; None is the context
    micro_sequences: int = 8
    prompts: list[str] = field(default_factory=list)  # that the model is to go on from
    sample_tokens: int = 64

    def __post_init__(self) -> None:
        for name in self.tasks:
            if name not in TASKS:
                raise ValueError(f"evaluation task '{name}' is not one of: {', '.join(TASKS)}")
        for name in (*(self.files or ()), *(self.shots or ())):
            if name not in TASKS:
                raise ValueError(f"a file for '{name}', which is no task; choose one of: {', '.join(TASKS)}")
        for name in ("every", "few_shot"):
            if getattr(self, name) < 0:
                raise ValueError(f"evaluation.{name} {getattr(self, name)} is negative; use 0 or more")
        for name in ("limit", "stride", "micro_sequences", "sample_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"evaluation.{name} must be at least 1, not {value}")


class Suite:
    """The benchmarks of one run, read."""

    def __init__(
        self, config: EvaluationConfig, world: World, model: GPTConfig, tokenizer: Tokenizer
    ) -> None:
        """Read every file. Collective. Raises DatasetError or ConfigError if one cannot be had."""
        self._config = config
        self._world = world
        self._model = model
        self._tokenizer = tokenizer
        self._asked = {name: _asked(name, config, partial(_records_for_all, world)) for name in config.tasks}

    @property
    def names(self) -> list[str]:
        """Return the tasks, in the order in which they were named."""
        return list(self._asked)

    def scores(self, name: str, model: TokenScores) -> dict[str, float]:
        """Return one task's scores by metric, the same on every rank. Collective."""
        asker = Asker(model, self._world, context=self._model.context, sequences=self._config.micro_sequences)
        return tasks.scores(TASKS[name], self._asked[name], asker, self._tokenizer, self._config.stride)

    def metrics(self, model: TokenScores) -> dict[str, float]:
        """Return all scores under the names by which a run records them, without sizes. Collective."""
        found = {name: self.scores(name, model) for name in self.names}
        return {
            f"eval/{name}_{key}": value
            for name, scores in found.items()
            for key, value in scores.items()
            if key not in SIZES
        }

    def samples(self, model: NextLogits) -> list[tuple[str, str]]:
        """Return each fixed prompt with what the model writes after it. Collective.

        Every rank draws every token, to the last: it is the only way in which ranks that differ in a
        rounding cannot come to wait for each other.
        """
        written = []
        for prompt in self._config.prompts:
            ids = [self._tokenizer.end_of_text, *self._tokenizer.encode(prompt)]
            stop = Stop((), self._tokenizer.decode, self._tokenizer.end_of_text)
            drawing = Drawing(tokens=self._config.sample_tokens)
            for (token,) in drawn_tokens(model, self._model, ids, drawing, generators(0, 1)):
                stop.add(token)
            written.append((prompt, stop.text))
        return written


def check_files(config: EvaluationConfig) -> None:
    """Read every file as a suite will; raise DatasetError or ConfigError if one cannot be had."""
    for name in config.tasks:
        _asked(name, config, records)


def _records_for_all(world: World, path: str, limit: int | None) -> list[Record]:
    return json.loads(on_primary(world, lambda: json.dumps(records(path, limit))))


def _asked(
    name: str, config: EvaluationConfig, read: Callable[[str, int | None], list[Record]]
) -> Sequence[Text] | Sequence[Example]:
    task, path = TASKS[name], tasks.source(name, config.files or {})
    found = read(path, config.limit)
    if task.example is None:
        return tasks.texts(task, found, path)
    questions = [task.example(record, path) for record in found]
    shots = questions
    if config.few_shot and (other := (config.shots or {}).get(name)):
        shots = [task.example(record, other) for record in read(other, config.few_shot + 1)]
    return few_shot(questions, shots, config.few_shot)
