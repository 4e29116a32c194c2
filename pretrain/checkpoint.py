"""What a checkpoint holds and how it returns: fp32 weights and moments in pieces, and where the run stands.

Each rank writes its own fragments as safetensors; the commit protocol decides when they count. The
pieces name the parameter and the element they begin at, so any number of ranks at any ZeRO stage
reads what any other wrote. There is no generator state: data order and dropout are functions of
the step. There is no pickle.
"""

import contextlib
import json
import math
import platform
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conf.exits import CorruptError
from pretrain import read_back, state_file
from pretrain.distributed import World, gather_texts, on_primary, with_help
from pretrain.engine import Engine
from pretrain.pieces import KINDS, Pieces
from pretrain.storage import commit, durable
from pretrain.storage.commit import FileRecord, Manifest
from pretrain.storage.lease import Lease
from pretrain.stream.detours import Detour, is_left_behind

DIRECTORY = "checkpoints"


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved and which states stay."""

    every: int = 1000  # steps; 0 is only at the end and when asked to stop
    minutes: float | None = 30.0  # and at least this often; null leaves it to `every`
    keep_last: int = 2
    keep_every: int | None = None  # steps; states at its multiples stay for ever
    keep_best: bool = False  # save where the validation loss is lowest so far, and keep the latest of these

    def __post_init__(self) -> None:
        if self.every < 0:
            raise ValueError(f"checkpoint.every {self.every} is negative; 0 saves only at the end")
        if self.minutes is not None and not self.minutes > 0:
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
    best_loss: float | None = None  # the lowest validation loss of a trained state
    best_step: int | None = None  # whose it was
    worse_validations: int = 0  # since then, in a row

    def validated(self, loss: float) -> bool:
        """Take in a validation loss of this step; say whether it is the lowest so far."""
        if math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss):
            self.best_loss, self.best_step, self.worse_validations = loss, self.step, 0
            return True
        self.worse_validations += 1
        return False


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
        self.on_saved: Callable[[int, Path], None] = lambda step, path: None  # on rank 0, by a thread
        self.beat: Callable[[], None] = lambda: None  # while a checkpoint is read to be loaded
        self.failures = 0  # saves that were refused, as their caller counts them, since the last that counts
        self._gathered = False  # every rank's file is written, and rank 0 lets the state count
        self._answers = 0  # of the ranks, since the last part of a save began
        # One thread, so that a commit never overtakes the file that it is about.
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._save: _Save | None = None
        self._counting: Future[None] | None = None

    def save(self, engine: Engine, progress: Progress) -> None:
        """Save the state on all ranks, and return when it counts. Collective; raises as `settle` does."""
        self.begin(engine, progress)
        self.settle()

    def begin(self, engine: Engine, progress: Progress) -> None:
        """Copy the state, and let a thread write the copy while training goes on. Collective.

        An earlier save must be settled. Raises OSError, on every rank, if the directory cannot be made.
        """
        assert not self.under_way, "two saves at a time would each remove the other's files"
        nonce = secrets.token_hex(8)
        directory = Path(on_primary(self._world, lambda: self._begun(progress.step, nonce)))
        facts = _facts(engine, progress)
        writing = self._thread.submit(state_file.write, directory, state_file.copied(engine), self._world)
        self._answers = 0
        self._save = _Save(directory, nonce, progress.step, facts, writing)

    @property
    def under_way(self) -> bool:
        """Say whether a save has begun that neither counts nor has failed yet, the same on every rank."""
        return self._save is not None or self._gathered

    @property
    def writing(self) -> bool:
        """Say whether this rank's thread is still busy with its file, or with letting the state count."""
        written = self._save is None or self._save.writing.done()
        return not written or (self._counting is not None and not self._counting.done())

    def heard(self, anybody_writing: bool) -> None:
        """Take in the ranks' answer to "is anybody still writing?"; if nobody is, go on with the save.

        Collective when it acts, and it acts on every rank at the same step. The answer is one step
        old, so the first after a part of a save began still speaks of the time before. Raises as
        `settle` does.
        """
        self._answers += 1
        if self._answers < 2 or anybody_writing:
            return
        if self._save is not None:
            self._gather()
        elif self._gathered:
            self.settle()

    def settle(self) -> None:
        """Return when nothing is under way any more. Collective if anything is.

        Raises the same OSError on every rank if any of them could not write; what was saved before is
        untouched then.
        """
        if self._save is not None:
            self._gather()
        if self._gathered:
            self._gathered = False
            on_primary(self._world, self._counted)
            self.failures = 0

    def load(
        self, engine: Engine, say: Callable[[str], None], detours: Sequence[Detour] = ()
    ) -> Progress | None:
        """Fill `engine` from the newest valid checkpoint; return None in a directory without any.

        One that one of the `detours` leaves behind is moved aside first. `say` hears of each that was
        passed over. Raises NoCheckpointError if there have been checkpoints and none is valid.
        """
        found = json.loads(
            with_help(
                self._world,
                lambda ask: self._newest(say, detours, partial(read_back.shared, ask)),
                lambda asked: read_back.share(self._world, asked, self.beat),
            )
        )
        if found is None:
            return None
        name, facts = found
        with Pieces(self.root / name) as pieces:
            for fragment in engine.wanted():
                for kind in KINDS:
                    pieces.fill(getattr(fragment, kind), kind, fragment.name, fragment.start)
        progress = Progress(**facts["progress"])
        engine.resumed_at(progress.step, facts["adam_steps"])
        return progress

    def newest_position(self, at_most: int) -> int | None:
        """Return where the newest whole state stands that has consumed no more than `at_most` sequences.

        On rank 0, while nothing is being saved. Raises LeaseHeldError if another trainer has replaced it.
        """
        assert self._lease is not None, "rank 0 holds the lease"
        self._lease.check()
        for path in commit.checkpoints(self.root):
            with contextlib.suppress(CorruptError):
                position = int(commit.verify(path).facts["progress"]["sequences"])
                if position <= at_most:
                    return position
        return None

    def _newest(self, say: Callable[[str], None], detours: Sequence[Detour], hashing: commit.Hashing) -> str:
        for each in commit.candidates(self.root):
            facts = each.manifest.facts if each.manifest else {}
            if facts and is_left_behind(int(facts["progress"]["sequences"]), detours):
                commit.set_aside(self.root, each.name, "left behind by a roll-back")
                say(f"passed over {each.name}: left behind by a roll-back")
        found = commit.newest_valid(
            self.root,
            run_id=self._identity["run_id"],
            config_sha256=self._identity["config_sha256"],
            dataset_fingerprint=self._identity["dataset_fingerprint"],
            on_rejected=lambda path, why: say(f"passed over {path.name}: {why}"),
            hashing=hashing,
        )
        return json.dumps((found.path.name, dict(found.manifest.facts)) if found else None)

    def _gather(self) -> None:
        """Collect what every rank wrote, and let rank 0's thread make it count."""
        assert self._save is not None
        save, self._save, self._answers = self._save, None, 0
        outcomes = [json.loads(text) for text in gather_texts(self._world, save.writing.result())]
        for failed in (each for each in outcomes if "errno" in each):
            on_primary(self._world, lambda: str(commit.abandon(self.root, save.directory)))
            raise OSError(failed["errno"], failed["text"], str(save.directory))
        self._gathered = True
        if self._world.primary:
            records = tuple(FileRecord(**each) for each in outcomes)
            self._counting = self._thread.submit(self._commit, save, records)

    def _begun(self, step: int, nonce: str) -> str:
        with durable.naming(self.root):
            return str(commit.begin(self.root, step, nonce))

    def _counted(self) -> str:
        """Return once the last commit has happened; raise what it raised. On rank 0."""
        counting, self._counting = self._counting, None
        if counting is not None:
            counting.result()
        return ""

    def _commit(self, save: "_Save", records: tuple[FileRecord, ...]) -> None:
        assert self._lease is not None, "rank 0 holds the lease"
        manifest = Manifest(
            step=save.step,
            world_size=self._world.size,
            nonce=save.nonce,
            files=records,
            facts=save.facts,
            fence=self._lease.fence,
            **self._identity,
        )
        try:
            with durable.naming(save.directory):
                found = commit.commit(self.root, save.directory, manifest, guard=self._lease.check)
        except OSError:
            with contextlib.suppress(OSError):  # the next save removes it too
                commit.abandon(self.root, save.directory)
            raise
        self.on_saved(save.step, found.path)
        # The state counts, whether or not an old one could be deleted; the next save tries again.
        with contextlib.suppress(OSError):
            commit.prune(
                self.root,
                keep_last=self._config.keep_last,
                keep_every_steps=self._config.keep_every,
                keep_steps=[save.facts["progress"]["best_step"]] if self._config.keep_best else (),
            )


@dataclass
class _Save:
    """A state on its way to the disk."""

    directory: Path
    nonce: str
    step: int
    facts: dict[str, Any]
    writing: Future[str]  # of this rank's file: its record as JSON, or the error


def _facts(engine: Engine, progress: Progress) -> dict[str, Any]:
    return {
        "progress": asdict(progress),
        "adam_steps": engine.adam_steps,
        "zero_stage": engine.stage,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
