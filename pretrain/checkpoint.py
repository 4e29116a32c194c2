"""What a checkpoint holds and how it returns: fp32 weights and moments in pieces, and where the run stands.

Each rank writes its own fragments as safetensors; the commit protocol decides when they count. The
pieces name the parameter and the element they begin at, so any number of ranks at any ZeRO stage
reads what any other wrote. There is no generator state: data order and dropout are functions of
the step. There is no pickle.
"""

import contextlib
import json
import platform
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from conf.exits import CorruptError
from pretrain import commit
from pretrain.commit import FileRecord, Manifest
from pretrain.distributed import World, gather_texts, on_primary
from pretrain.engine import Engine
from pretrain.fragments import MOMENTS
from pretrain.lease import Lease

DIRECTORY = "checkpoints"
_KINDS = ("weight", *MOMENTS)


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved and which states stay."""

    every: int = 1000  # steps; 0 is only at the end and when asked to stop
    minutes: float | None = 30.0  # and at least this often; null leaves it to `every`
    keep_last: int = 2
    keep_every: int | None = None  # steps; states at its multiples stay for ever

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"checkpoint.every {self.every} is negative; 0 saves only at the end")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"checkpoint.minutes {self.minutes} must be above 0, or null")
        if self.keep_last < 2:
            raise ValueError(
                f"checkpoint.keep_last {self.keep_last} could leave one damaged state; use 2 or more"
            )
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"checkpoint.keep_every {self.keep_every} must be at least 1, or null")


@dataclass
class Progress:
    """Where a run stands; all of it but the clock follows from the step."""

    step: int = 0  # optimizer steps done
    sequences: int = 0  # consumed by all ranks: the position in the order of training
    tokens: int = 0
    productive_seconds: float = 0.0  # spent in steps that are part of the run
    began_at: float = 0.0  # Unix time of the first attempt


class Checkpoints:
    """The checkpoints of one run directory, as all ranks together save and load them."""

    def __init__(
        self,
        run_dir: Path,
        *,
        world: World,
        lease: Lease | None,
        identity: dict[str, str],
        config: CheckpointConfig,
    ) -> None:
        """Take the `identity` {run_id, config_sha256, dataset_fingerprint} that every manifest must bear.

        Rank 0 passes the lease of the run directory; the other ranks None.
        """
        self.root = run_dir / DIRECTORY
        self._world = world
        self._lease = lease
        self._identity = identity
        self._config = config

    def save(self, engine: Engine, progress: Progress) -> None:
        """Save the state on all ranks, then let go of what is no longer needed.

        Raises the same OSError on every rank if any of them could not write; what was saved before
        is untouched then.
        """
        nonce = secrets.token_hex(8)
        begun = Path(on_primary(self._world, lambda: str(commit.begin(self.root, progress.step, nonce))))
        records = self._written(begun, engine)
        on_primary(self._world, lambda: self._committed(begun, records, engine, progress))

    def load(self, engine: Engine, say: Callable[[str], None]) -> Progress | None:
        """Fill `engine` from the newest valid checkpoint; return None in a directory without any.

        `say` hears of each damaged one that was passed over. Raises NoCheckpointError if there have
        been checkpoints and none is valid.
        """
        found = on_primary(self._world, lambda: self._newest(say))
        if not found:
            return None
        path = self.root / found
        facts = json.loads(on_primary(self._world, lambda: json.dumps(dict(commit.verify(path).facts))))
        with _Pieces(path) as pieces:
            for fragment in engine.wanted():
                for kind in _KINDS:
                    pieces.fill(getattr(fragment, kind), kind, fragment.name, fragment.start)
        progress = Progress(**facts["progress"])
        engine.resumed_at(progress.step, facts["adam_steps"])
        return progress

    def _newest(self, say: Callable[[str], None]) -> str:
        found = commit.newest_valid(
            self.root,
            run_id=self._identity["run_id"],
            config_sha256=self._identity["config_sha256"],
            dataset_fingerprint=self._identity["dataset_fingerprint"],
            on_rejected=lambda path, why: say(f"passed over {path.name}: {why}"),
        )
        return found.path.name if found else ""

    def _written(self, directory: Path, engine: Engine) -> list[FileRecord]:
        """Write this rank's file; return all ranks' records on every rank."""
        rank, size = self._world.rank, self._world.size
        tensors = {
            f"{kind}/{fragment.name}@{fragment.start}": getattr(fragment, kind).contiguous().cpu()
            for fragment in engine.fragments()
            for kind in _KINDS
            if len(fragment.weight)
        }
        try:
            data = safetensors.torch.save(tensors)
            record = commit.write(directory, f"state-{rank:05d}-of-{size:05d}.safetensors", [data])
            outcome: dict[str, Any] = asdict(record)
        except OSError as error:
            outcome = {"errno": error.errno, "text": f"rank {rank}: {error.strerror}"}
        outcomes = [json.loads(text) for text in gather_texts(self._world, json.dumps(outcome))]
        for failed in (each for each in outcomes if "errno" in each):
            on_primary(self._world, lambda: str(commit.abandon(self.root, directory)))
            raise OSError(failed["errno"], failed["text"], str(directory))
        return [FileRecord(**each) for each in outcomes]

    def _committed(
        self, directory: Path, records: list[FileRecord], engine: Engine, progress: Progress
    ) -> str:
        assert self._lease is not None, "rank 0 holds the lease"
        manifest = Manifest(
            step=progress.step,
            world_size=self._world.size,
            nonce=directory.name.rpartition("-")[2],
            files=tuple(records),
            facts={
                "progress": asdict(progress),
                "adam_steps": engine.adam_steps,
                "zero_stage": engine.stage,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            fence=self._lease.fence,
            **self._identity,
        )
        done = commit.commit(self.root, directory, manifest, guard=self._lease.check)
        commit.prune(self.root, keep_last=self._config.keep_last, keep_every_steps=self._config.keep_every)
        return done.path.name


class _Pieces:
    """The tensors of a checkpoint's files, found by parameter and element."""

    def __init__(self, path: Path) -> None:
        self._files = contextlib.ExitStack()
        self._held: dict[tuple[str, str], list[tuple[int, int, Any, str]]] = {}
        for file in sorted(path.glob("state-*.safetensors")):
            opened = self._files.enter_context(safetensors.safe_open(file, "pt"))
            for key in opened.keys():  # noqa: SIM118 (not a mapping)
                kind, _, rest = key.partition("/")
                name, _, start = rest.rpartition("@")
                length = opened.get_slice(key).get_shape()[0]
                self._held.setdefault((kind, name), []).append((int(start), length, opened, key))

    def __enter__(self) -> "_Pieces":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def fill(self, target: Tensor, kind: str, name: str, start: int) -> None:
        """Copy elements start..start + len(target) of a parameter's tensor into `target`, flat.

        Raises CorruptError if the files do not hold them all.
        """
        filled = 0
        for begin, length, opened, key in self._held.get((kind, name), ()):
            low, high = max(begin, start), min(begin + length, start + len(target))
            if low < high:
                piece = opened.get_slice(key)[low - begin : high - begin]
                target[low - start : high - start].copy_(piece)
                filled += high - low
        if filled != len(target):
            raise CorruptError(
                f"the checkpoint holds {filled} of the {len(target)} elements of {kind}/{name}"
            )


def saved_weights(path: Path, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return the fp32 weights of a verified checkpoint, whole, for parameters of these shapes."""
    weights = {}
    with _Pieces(path) as pieces:
        for name, shape in shapes.items():
            flat = torch.empty(shape.numel())
            pieces.fill(flat, "weight", name, 0)
            weights[name] = flat.view(shape)
    return weights
