"""Where the configuration's files lie: in this package, and in a folder of the user's own.

An installed package is not the place for a site's files. PRETRAIN_CONF names a folder laid out as this one
(`cluster/mine.yaml`, `corpus/news.yaml`, `experiment/…`), whose files are options as ours are.
"""

import os
from pathlib import Path

from conf.exits import ConfigError

DIRECTORY = Path(__file__).resolve().parent
VARIABLE = "PRETRAIN_CONF"


def own_folder() -> Path | None:
    """Return the user's folder, or None if none is named.

    Raises ConfigError if it is not there, or if one of its files has the name of one of ours, which would
    hide it.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser().resolve()
    if not folder.is_dir():
        raise ConfigError(
            f"{VARIABLE}={named} is not a folder; name one that holds cluster/NAME.yaml and the like"
        )
    if folder == DIRECTORY:
        return None
    hidden = sorted(
        path for path in folder.glob("*/*.yaml") if (DIRECTORY / path.relative_to(folder)).exists()
    )
    if hidden:
        raise ConfigError(f"{hidden[0]} has the name of a file that comes with the package; rename it")
    return folder


def options(group: str) -> dict[str, Path]:
    """Return the files of a group by the names of their options, sorted."""
    folders = [folder / group for folder in (DIRECTORY, own_folder()) if folder]
    found = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    return dict(sorted(found.items()))


def search_path() -> list[str]:
    """Return the override that lets Hydra find the user's files."""
    if (folder := own_folder()) is None:
        return []
    escaped = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return [f"hydra.searchpath=['file://{escaped}']"]
