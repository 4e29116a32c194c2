"""Whether the disks have room for what a run will write: the free space, and what the user's quota leaves.

Sizes are predicted: a checkpoint by the model's parameters, and what data_prep expects of its corpus.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain.config import TrainConfig
from pretrain.model import GPT, parameter_count
from pretrain.storage.retention import BYTES_PER_PARAMETER, most_at_once
from slurm.asking import ask

_ANSWER_SECONDS = 20.0  # a file server that is asked for a quota may be away


@dataclass(frozen=True)
class Need:
    """What one part of the work will write."""

    directory: Path
    bytes: int
    what: str
    way_out: str


def checkpoint_bytes(config: TrainConfig) -> int:
    """Return the size of one checkpoint."""
    with torch.device("meta"):
        return parameter_count(GPT(config.model)) * BYTES_PER_PARAMETER


def checkpoints_need(config: TrainConfig) -> Need:
    """Return what the checkpoints take that will lie there at once, the one being written too."""
    kept = config.checkpoint
    count = most_at_once(config.steps, keep_last=kept.keep_last, keep_every_steps=kept.keep_every)
    way_out = "choose another run_dir, or lower checkpoint.keep_last or raise checkpoint.keep_every"
    return Need(Path(config.run_dir), count * checkpoint_bytes(config), "the checkpoints", way_out)


def faults(needs: Iterable[Need]) -> Iterator[str]:
    """Tell for each file system whether it holds all that will be written there."""
    by_device: dict[int, list[Need]] = {}
    for need in needs:
        by_device.setdefault(existing(need.directory).stat().st_dev, []).append(need)
    for together in by_device.values():
        folder = existing(together[0].directory)
        needed = sum(need.bytes for need in together)
        what = " and ".join(dict.fromkeys(need.what for need in together))
        ways_out = "; ".join(dict.fromkeys(need.way_out for need in together))
        text = f"{what} need {readable(needed)}"
        free = shutil.disk_usage(folder).free
        if free < needed:
            yield f"{folder} has {readable(free)} free, {text}; free space, {ways_out}"
        elif (left := quota_left(folder)) is not None and left < needed:
            yield f"your quota on {folder} leaves {readable(left)}, {text}; ask for more, {ways_out}"


def quota_left(folder: Path) -> int | None:
    """Return the bytes that the user's quota leaves; None without a quota, or if nobody tells.

    Lustre is asked by `lfs`, all else by `quota`, which also asks NFS servers. GPFS and XFS with quotas
    for directories need no question: their free space is what the quota leaves.
    """
    mount, kind = _mount(folder)
    if kind == "lustre":
        command = ["lfs", "quota", "-q", "-u", str(os.getuid()), str(folder)]
    else:
        command = ["quota", "-u", "-w", "-p", "--show-mntpoint", "--hide-device", "-f", mount]
    return _left(ask(*command, seconds=_ANSWER_SECONDS).out)


def readable(size: int) -> str:
    """Return a number of bytes as people say it."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that is there."""
    return path if path.exists() else existing(path.parent)


def _left(answer: str) -> int | None:
    """Return what is left according to the row with file system, KiB used, soft limit and hard limit.

    Both programs write it so, with a star behind what is above the soft limit; a long name of the file
    system may have the line for itself. A limit of 0 is none.
    """
    words = answer.replace("*", "").split()
    for place in range(len(words) - 3):
        row = words[place + 1 : place + 4]
        if words[place].startswith("/") and all(word.isdigit() for word in row):
            used, soft, hard = map(int, row)
            limit = hard or soft
            return max(0, limit - used) * 1024 if limit else None
    return None


def _mount(path: Path) -> tuple[str, str]:
    """Return the mount point that a path lies on, and the kind of its file system."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    # Spaces are written as \\040.
    named = [(mount.encode().decode("unicode_escape"), kind) for mount, kind in mounts]
    above = [(mount, kind) for mount, kind in named if path.resolve().is_relative_to(mount)]
    return max(above, key=lambda each: len(each[0]), default=("/", ""))
