"""Where the tensors of a checkpoint lie: pieces in many files, found by parameter and element."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from conf.exits import CorruptError
from pretrain.fragments import MOMENTS

KINDS = ("weight", *MOMENTS)


def key_of(kind: str, name: str, start: int) -> str:
    """Return the key of a piece: its kind, its parameter, and the element it begins at."""
    return f"{kind}/{name}@{start}"


class Pieces:
    """The tensors of a checkpoint's files, found by parameter and element."""

    def __init__(self, path: Path) -> None:
        """Open the files in `path`. Raises CorruptError for one that is no state."""
        self._files = contextlib.ExitStack()
        self._held: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        for file in sorted(path.glob("state-*.safetensors")):
            try:
                self._open(file)
            except (safetensors.SafetensorError, ValueError, IndexError) as error:
                raise CorruptError(f"{file} is not a state that this program wrote: {error}") from None

    def _open(self, file: Path) -> None:
        opened = self._files.enter_context(safetensors.safe_open(file, "pt"))
        for key in opened.keys():  # noqa: SIM118 (not a mapping)
            kind, _, rest = key.partition("/")
            name, _, start = rest.rpartition("@")
            length = opened.get_slice(key).get_shape()[0]
            self._held.setdefault((kind, name), []).append((int(start), length, opened, key))

    def __enter__(self) -> "Pieces":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def fill(self, target: Tensor, kind: str, name: str, start: int) -> None:
        """Copy elements start..start + len(target) of a parameter's tensor into `target`, flat.

        Raises CorruptError if the files do not hold each of them exactly once.
        """
        filled = 0
        for begin, length, opened, key in sorted(
            self._held.get((kind, name), ()), key=lambda piece: piece[0]
        ):
            low, high = max(begin, start), min(begin + length, start + len(target))
            if low >= high:
                continue
            if low != start + filled:  # a hole, or an overlap that would make up for one in the count
                break
            target[filled : high - start].copy_(opened.get_slice(key)[low - begin : high - begin])
            filled = high - start
        else:
            if filled == len(target):
                return
        raise CorruptError(
            f"the checkpoint does not hold each of the {len(target)} elements of {kind}/{name} once: "
            f"it ends or goes wrong at element {start + filled}"
        )


def saved_weights(path: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return the fp32 weights of a verified checkpoint, whole, for parameters of these shapes."""
    weights = {}
    with Pieces(path) as pieces:
        for name, shape in shapes.items():
            flat = torch.empty(shape.numel())
            pieces.fill(flat, "weight", name, 0)
            weights[name] = flat.view(shape)
    return weights
