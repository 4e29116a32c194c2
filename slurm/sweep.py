"""Where the runs of a sweep lie: side by side in one folder, each named by its number in the array.

SWEEP/00-peak_0.001/, SWEEP/01-peak_0.0003/, … Beside them, SWEEP/slurm/ keeps what the jobs need.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from conf import override_key
from conf.exits import ConfigError

_NAMED = re.compile(r"(\d{2,})-.+")
_LONGEST_NAME = 100  # of a directory, in characters; file systems allow 255 bytes


def directory_name(number: int, settings: Sequence[str]) -> str:
    """Return the name of the run's directory: its number, and what sets it apart from the others.

    directory_name(1, ["schedule.peak=0.001", "seed=2"])  →  "01-peak_0.001-seed_2"
    """
    parts = []
    for setting in settings:
        value = setting.partition("=")[2].strip("'\"")
        parts.append(f"{override_key(setting).rpartition('.')[2]}_{value}")
    # What Hydra and a shell read as it stands, so that the path can be typed.
    words = re.sub(r"[^\w.+-]+", "_", "-".join(parts)).strip("_")
    return f"{number:02d}-{words}"[:_LONGEST_NAME]


def runs(folder: Path) -> dict[int, Path]:
    """Return the directories of a sweep's runs by their number; none if the folder is no sweep."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if (named := _NAMED.fullmatch(path.name)) and (path / "config.yaml").is_file():
            found[int(named[1])] = path
    return dict(sorted(found.items()))


def run_of_task(folder: Path, task: int) -> Path:
    """Return the directory of the run that an array task trains; ConfigError if there is none."""
    if task not in (known := runs(folder)):
        numbers = ", ".join(map(str, known)) or "none"
        raise ConfigError(f"{folder} holds no run {task} (there are: {numbers}); see sbatch --array")
    return known[task]
