"""Whether what is trained is still sound: finite on every rank, and the same where it must be the same.

A step whose gradient is not finite changes no weight on any rank; too many in a row end the run. A
state is saved only if all of it is finite and the ranks agree, so no poisoned one ever is. Everything
here is decided by all ranks together, at the same step.
"""

import json
import socket
import statistics
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from conf.exits import CorruptError, NonFiniteError
from pretrain.distributed import World, gather_texts, largest
from pretrain.storage import commit

# NVRx and Megatron call a rank a straggler from about this on.
_STRAGGLER_RATIO = 1.5
_STRAGGLER_REPORTS = 20
# Gradients that are not finite now and then are bf16's; so many, so close together, are a cause.
_SKIPS_TOLD = 5
_SKIPS_WITHIN = 100  # steps
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class HealthConfig:
    """When a run that is not sound must end, and how often the ranks compare what they hold."""

    most_skipped: int = 20  # steps in a row whose gradient was not finite
    compare_every: int = 1000  # steps; 0 compares only before a save

    def __post_init__(self) -> None:
        if self.most_skipped < 1:
            raise ValueError(f"health.most_skipped must be at least 1, not {self.most_skipped}")
        if self.compare_every < 0:
            raise ValueError(
                f"health.compare_every {self.compare_every} is negative; 0 is only before a save"
            )


class Health:
    """Watches the numbers of one run."""

    def __init__(self, config: HealthConfig, world: World, checkpoints: Path) -> None:
        """Take the directory of the `checkpoints`, to name the last good one in an error."""
        self._config = config
        self._world = world
        self._checkpoints = checkpoints
        self._skipped_in_a_row = 0
        self._recent: deque[bool] = deque(maxlen=_SKIPS_WITHIN)
        # Well before the run ends because of them.
        self._skips_told = max(1, min(_SKIPS_TOLD, config.most_skipped // 2))
        self._told = False

    def heed(self, skipped: bool, step: int) -> str:
        """Count a step that was `skipped`, which all ranks decided alike; return what a person should know.

        Most often nothing, "": a cause is told once, and again after 100 steps without it. Raises
        NonFiniteError when there were too many in a row.
        """
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._skipped_in_a_row >= self._config.most_skipped:
            raise NonFiniteError(
                f"the gradient was not finite in {self._skipped_in_a_row} steps in a row, up to step {step}; "
                f"no weight changed in them. {self._way_out()}, with a lower schedule.peak"
            )
        self._recent.append(skipped)
        count, told = sum(self._recent), self._told
        self._told = count >= self._skips_told or (told and count > 0)
        if told or not self._told:
            return ""
        return f"{count} of the last {len(self._recent)} up to step {step}: the gradient is not finite"

    def comparison_due(self, step: int) -> bool:
        """Say whether the ranks compare what they hold after `step`."""
        return self._config.compare_every > 0 and step % self._config.compare_every == 0

    def check_equal(self, replicated: Iterable[tuple[str, Tensor]], step: int) -> None:
        """Compare, over all ranks, (name, tensor) pairs that must be equal to the bit. Collective.

        Raises CorruptError, on every rank, naming the ranks that differ from the most; of two that
        differ from each other, both.
        """
        own = {name: fingerprint(tensor) for name, tensor in replicated}
        word = json.dumps({"host": socket.gethostname(), "of": own})
        told = [json.loads(text) for text in gather_texts(self._world, word)]
        wrong = deviants([each["of"] for each in told])
        if wrong:
            who = ", ".join(f"rank {rank} ({told[rank]['host']})" for rank in wrong)
            names = sorted({name for rank in wrong for name in wrong[rank]})
            raise CorruptError(
                f"{who} does not hold the bits of the other ranks in {names[0]} (and {len(names) - 1} more "
                f"tensors) after step {step}; suspect its memory or its device. {self._way_out()}, without it"
            )

    def check_finite(self, state: Iterable[Tensor], step: int) -> None:
        """Raise NonFiniteError, on every rank, if any value of any rank's `state` is NaN or infinite.

        Collective.
        """
        poisoned = sum(int(not torch.isfinite(tensor).all()) for tensor in state)
        if largest(self._world, poisoned)[0]:
            raise NonFiniteError(
                f"weights or moments are not finite after step {step}, so they are not saved. "
                f"{self._way_out()}"
            )

    def _way_out(self) -> str:
        saved = commit.checkpoints(self._checkpoints) if self._checkpoints.exists() else []
        return f"The last good state is {saved[0].name}: start again from there" if saved else "Start again"


def fingerprint(tensor: Tensor) -> int:
    """Return a number that differs if any one bit of `tensor` does: the sum of its words, modulo 2**64."""
    flat = tensor.detach().reshape(-1)
    return int(flat.view(_INTEGERS[flat.element_size()]).sum(dtype=torch.int64))


def deviants(fingerprints: Sequence[dict[str, int]]) -> dict[int, list[str]]:
    """Return, by rank, the names whose fingerprint differs from what most ranks hold.

    Without a majority every rank that differs from another is named.
    """
    wrong: dict[int, list[str]] = {}
    for name in fingerprints[0]:
        values = [each[name] for each in fingerprints]
        (most, count), *others = Counter(values).most_common()
        if not others:
            continue
        for rank, value in enumerate(values):
            if value != most or 2 * count <= len(values):
                wrong.setdefault(rank, []).append(name)
    return dict(sorted(wrong.items()))


class Stragglers:
    """Notices a rank that is slower than the others, report after report."""

    def __init__(self) -> None:
        self._reports: Counter[int] = Counter()

    def heed(self, seconds: Sequence[float]) -> int | None:
        """Take every rank's own seconds per step; return a rank that has now lagged in 20 reports on end.

        It is named once, and again only after it has caught up.
        """
        limit = _STRAGGLER_RATIO * statistics.median_low(seconds)
        named = None
        for rank, own in enumerate(seconds):
            self._reports[rank] = self._reports[rank] + 1 if own > limit else 0
            if self._reports[rank] == _STRAGGLER_REPORTS:
                named = rank
        return named
