"""Which directories a command means by the runs that it is given: those that have logged something."""

from collections.abc import Sequence
from pathlib import Path

from conf.exits import ConfigError
from pretrain.watching.metrics_log import FILE_NAME


def logged_runs(runs: str | Sequence[object]) -> list[Path]:
    """Return the runs below a directory, by name, or those of a list of run directories, in its order.

    Raises ConfigError for a directory that does not exist.
    """
    single = isinstance(runs, str)
    named = [Path(str(path)) for path in ([runs] if single else runs)]
    for path in named:
        if not path.is_dir():
            raise ConfigError(f"{'directory' if single else 'run directory'} {path} does not exist")
    return run_directories(named[0]) if single else [path for path in named if (path / FILE_NAME).exists()]


def run_directories(parent: Path) -> list[Path]:
    """Return the run directories at, in, or one level further below `parent`, sorted by name."""
    found = {path.parent for pattern in ("", "*/", "*/*/") for path in parent.glob(f"{pattern}{FILE_NAME}")}
    return sorted(found)
