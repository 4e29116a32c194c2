"""Which checkpoints may go: none before two newer ones have been read back and found whole.

Two kinds are kept. Temporary ones, saved by the clock, bound the work that a crash can lose; only
the newest few stay. Permanent ones, saved at multiples of a step count, are for evaluation and stay
for ever. The step alone tells which is which.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from conf.exits import ConfigError
from pretrain.storage import durable
from pretrain.storage.faults import fault_point
from pretrain.storage.manifest import step_of
from pretrain.storage.recovery import DELETED, Candidate, candidates, is_whole

BYTES_PER_PARAMETER = 12  # of a checkpoint: the fp32 weight and its two fp32 moments
_FEWEST = 2  # one to go on from, one for when that turns out damaged


def save_due(
    step: int, seconds_since_save: float, *, every_seconds: float | None, every_steps: int | None
) -> bool:
    """Tell whether to save after `step` steps: by the clock, or because the step is permanent.

    Time is rank 0's, from a monotonic clock; the other ranks are told.
    """
    by_the_clock = every_seconds is not None and seconds_since_save >= every_seconds
    return by_the_clock or is_permanent(step, every_steps)


def is_permanent(step: int, every_steps: int | None) -> bool:
    """Tell whether the checkpoint at `step` is never pruned."""
    return every_steps is not None and step > 0 and step % every_steps == 0


def most_at_once(steps: int, *, keep_last: int, keep_every_steps: int | None) -> int:
    """Return how many checkpoints of a run lie on the disk at the most, the one being written too."""
    return keep_last + 1 + (steps // keep_every_steps if keep_every_steps else 0)


def prune(
    root: Path,
    *,
    keep_last: int = _FEWEST,
    keep_every_steps: int | None = None,
    keep_steps: Collection[int] = (),
) -> list[Path]:
    """Delete what is older than the newest `keep_last` whole checkpoints; return what went.

    Whole means read back and hashed since this process began, by it or by ranks that it asked. A
    damaged checkpoint counts for nothing and is left for `newest_valid` to judge. Multiples of
    `keep_every_steps` stay for ever, and `keep_steps` for as long as they are named.

    Raises OSError if the disk fails; nothing that had to stay is gone then.
    """
    if keep_last < _FEWEST:
        raise ConfigError(f"keep_last={keep_last} could leave one damaged checkpoint; use {_FEWEST} or more")
    if keep_every_steps is not None and keep_every_steps < 1:
        raise ConfigError(f"keep_every_steps={keep_every_steps}; use 1 or more, or none")
    root = Path(root)
    oldest_first = _surplus(root, candidates(root), keep_last, keep_every_steps)
    surplus = [name for name in oldest_first if step_of(name) not in keep_steps]
    if not surplus:
        return []
    with durable.opened_directory(root) as directory:
        for name in surplus:
            durable.remove_tree(DELETED + name, within=directory)  # of a prune that died
            durable.rename(name, DELETED + name, within=directory)
            fault_point("prune.renamed")
        # Before the first file goes: no half-deleted directory may come back under a good name.
        durable.sync(directory)
        for name in surplus:
            durable.remove_tree(DELETED + name, within=directory)
    return [root / name for name in surplus]


def _surplus(
    root: Path, newest_first: Sequence[Candidate], keep_last: int, keep_every_steps: int | None
) -> list[str]:
    """Return the names, oldest first, of what lies behind `keep_last` whole checkpoints."""
    whole = 0
    for place, candidate in enumerate(newest_first):
        whole += candidate.manifest is not None and is_whole(root / candidate.name)
        if whole == keep_last:
            older = [each for each in newest_first[place + 1 :] if each.manifest]
            return [
                each.name
                for each in reversed(older)
                if each.manifest and not is_permanent(each.manifest.step, keep_every_steps)
            ]
    return []
