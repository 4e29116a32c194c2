"""When a run goes back to an earlier state because of a loss spike, and what it then passes over.

It goes back to the newest state from before the steps of that report, and takes other sequences than
those since (PaLM: Chowdhery et al. 2022, section 5.1). The detour is in the ledger, on disk, before
anything acts on it; from then on every attempt takes it.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.exits import CorruptError, DatasetError
from pretrain.checkpoint import Checkpoints, Progress
from pretrain.distributed import World, on_primary
from pretrain.stream.detours import Detour, merged
from pretrain.stream.ledger import Ledger
from pretrain.watching.run_log import read_run
from pretrain.watching.spikes import WINDOW, LossHistory


@dataclass(frozen=True)
class RollBackConfig:
    """Whether and when a run goes back."""

    above_z: float | None = None  # standard deviations above the last 128 reports; null is never
    most: int = 5  # times in a run; what spikes after them raises an alert alone

    def __post_init__(self) -> None:
        if self.above_z is not None and not self.above_z > 0:
            raise ValueError(f"roll_back.above_z {self.above_z} must be above 0, or null")
        if self.most < 1:
            raise ValueError(
                f"roll_back.most {self.most} must be at least 1; roll_back.above_z=null is never"
            )


class RollBack:
    """Judges the reports of a run; rank 0's judgement counts."""

    def __init__(
        self,
        config: RollBackConfig,
        world: World,
        checkpoints: Checkpoints,
        *,
        ledger: Ledger | None,
        losses: Sequence[float] = (),
        detours: Sequence[Detour] = (),
        position: int = 0,
    ) -> None:
        """Take the `losses` reported and the `detours` decided on so far, and the sequences consumed."""
        self._config = config
        self._world = world
        self._checkpoints = checkpoints
        self.ledger = ledger
        self._losses = list(losses)
        self._reported_at = self._spike_since = position
        self._score = 0.0
        self._times = len(detours)
        self.detours = merged(detours)

    def is_spike(self, loss: float, progress: Progress) -> bool:
        """Say whether the `loss` reported now is reason to go back. Collective, if that is asked for."""
        if self._config.above_z is None:
            return False
        self._score = LossHistory(self._losses).z_score(loss)
        spiked = self._score > self._config.above_z and self._times < self._config.most
        if not spiked:
            self._losses = [*self._losses, loss][-WINDOW:]
        self._spike_since, self._reported_at = self._reported_at, progress.sequences
        return bool(json.loads(on_primary(self._world, lambda: json.dumps(spiked))))

    def decided(self, loss: float, progress: Progress) -> bool:
        """Put a detour on disk; say False if there is no state from before the spike. Collective.

        Nothing may be being saved.
        """
        told = json.loads(on_primary(self._world, lambda: json.dumps(self._detour(loss, progress))))
        if told is None:
            return False
        self._times += 1
        self.detours = merged([*self.detours, Detour(*told)])
        self._reported_at = told[0]
        return True

    def _detour(self, loss: float, progress: Progress) -> Detour | None:
        """Return the detour to take from now on, once it is on disk. On rank 0."""
        assert self.ledger is not None, "rank 0 writes the ledger"
        begin = self._checkpoints.newest_position(self._spike_since)
        if begin is None:
            return None
        detour = Detour(begin, progress.sequences)
        because = f"loss {loss:.4f}, {self._score:.1f} standard deviations above its last values"
        self.ledger.pass_over(detour, step=progress.step, because=because)
        return detour


def losses_up_to(run_dir: Path, step: int) -> list[float]:
    """Return the last losses that a run has reported up to `step`; none if there is no record of it."""
    try:
        run = read_run(run_dir)
    except (CorruptError, DatasetError):  # it is for people; a run does not end because of it
        return []
    column = zip(run.steps, run.column("train/loss"), strict=False)
    return [loss for at, loss in column if at <= step and not math.isnan(loss)][-WINDOW:]
