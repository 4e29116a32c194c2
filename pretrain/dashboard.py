"""The dashboard command: one run's page as a file, or a live page of one run or many."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import compose, typed
from conf.command import run
from conf.exits import ConfigError, DatasetError
from pretrain.metrics_log import FILE_NAME, read_run
from pretrain.page_server import LiveRuns, run_directories, server
from pretrain.run_page import page

USAGE = """
Show training runs in a browser.

  python -m pretrain.dashboard run_dir=RUN                     serve a live page of one run
  python -m pretrain.dashboard runs=DIR                        … of every run below a directory
  python -m pretrain.dashboard runs=[RUN_A,RUN_B] port=9000    … of chosen runs
  python -m pretrain.dashboard run_dir=RUN export=page.html    write one self-contained file

The page is served on 127.0.0.1 only; from elsewhere: ssh -L 8765:127.0.0.1:8765 HOST
"""


@dataclass(frozen=True)
class DashboardConfig:
    """Which runs to show, and how."""

    run_dir: str | None = None
    runs: Any = None
    export: str | None = None
    port: int = 8765

    def __post_init__(self):
        if (self.run_dir is None) == (self.runs is None):
            raise ConfigError("give either run_dir=RUN or runs=DIR (or runs=[RUN_A,RUN_B])")
        if not 0 <= self.port < 2**16:
            raise ConfigError(f"port {self.port} is not a port; choose one from 1024 to 65535")


def main(overrides: list[str]) -> int:
    """Export or serve the page that the overrides ask for."""
    config = typed(DashboardConfig, compose("dashboard", overrides))
    if config.export is None:
        serve(config)
    else:
        print(exported(chosen_runs(config), Path(config.export)))
    return 0


def chosen_runs(config: DashboardConfig) -> list[Path]:
    """Return the run directories that the config names; all of them exist.

    Raises ConfigError for a directory that does not exist, DatasetError if no run has logged anything.
    """
    single = isinstance(config.runs, str)
    named = [Path(str(path)) for path in ([config.runs] if single else config.runs or [config.run_dir])]
    for path in named:
        if not path.is_dir():
            raise ConfigError(f"{'directory' if single else 'run directory'} {path} does not exist")
    found = run_directories(named[0]) if single else [path for path in named if (path / FILE_NAME).exists()]
    if not found:
        where = f"no run below {named[0]}" if single else f"none of {', '.join(map(str, named))}"
        raise DatasetError(f"{where} has a {FILE_NAME}: nothing has been logged yet")
    return found


def exported(run_dirs: list[Path], target: Path) -> Path:
    """Write the page of these runs to `target`, whole or not at all, and return its absolute path."""
    text = page([read_run(path) for path in run_dirs], live=False)
    target = target.resolve()
    if target.is_dir():
        raise ConfigError(f"export={target} is a directory; name a file in it, such as {target / 'run.html'}")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.replace(target)
    return target


def serve(config: DashboardConfig) -> None:
    """Serve the live page until interrupted."""
    chosen_runs(config)
    web = server(LiveRuns(lambda: chosen_runs(config)), config.port)
    print(f"http://127.0.0.1:{web.server_port}/  (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt), web:
        web.serve_forever()


if __name__ == "__main__":
    run(main, name="dashboard", config="dashboard", usage=USAGE)
