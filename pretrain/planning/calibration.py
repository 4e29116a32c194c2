"""How much faster measured runs were than the model says, from the results that lie in a folder.

A result is a JSON file with `"kind": "training_speed"`; docs/planning.md lists its fields.
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.exits import CorruptError
from pretrain.planning.hardware import hardware
from pretrain.planning.memory import Sharding, Work
from pretrain.planning.question import Question
from pretrain.planning.shape import Shape
from pretrain.planning.speed import speed

KIND = "training_speed"


@dataclass(frozen=True)
class Calibration:
    """The factor by which expected speeds are multiplied, and where it comes from."""

    factor: float = 1.0
    sources: tuple[str, ...] = ()


def calibration(question: Question, folder: Path) -> Calibration:
    """Return the median of measured over modelled speed, of the same model if one was measured, else of all.

    Only results of the same device count. Raises CorruptError for a result that lacks a field.
    """
    same_device = [
        (path, result) for path, result in results(folder) if result["hardware"] == question.device.name
    ]
    same_model = [each for each in same_device if Shape(**each[1]["model"]) == question.model]
    used = same_model or same_device
    if not used:
        return Calibration()
    factors = [result["tokens_per_s_per_gpu"] / modelled(result) for _, result in used]
    return Calibration(statistics.median(factors), tuple(str(path) for path, _ in used))


def results(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return every measured training speed in `folder`, with the file it stands in."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise CorruptError(f"{path} is not JSON ({error}); mend or remove it") from error
        if isinstance(content, dict) and content.get("kind") == KIND:
            found.append((path, content))
    return found


def modelled(result: dict[str, Any]) -> float:
    """Return the tokens per second and device that the model expects of a measured run."""
    try:
        work = Work(
            result["micro_sequences"],
            result["sequence_tokens"],
            result["precision"],
            result["compiled"],
            hardware(result["hardware"]).is_gpu,
            result["recompute"],
        )
        expected = speed(
            Shape(**result["model"]),
            hardware(result["hardware"]),
            Sharding(result["zero_stage"], result["ranks"]),
            work,
            accumulation=result["accumulation"],
            ranks_per_node=result["ranks_per_node"],
        )
        return expected.tokens_per_s / result["ranks"]
    except (KeyError, TypeError) as error:
        raise CorruptError(f"a measured speed lacks {error}; docs/planning.md lists its fields") from error
