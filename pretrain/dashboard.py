"""The dashboard command: runs as a page, live or in a file, as lines on a terminal, or as a W&B view."""

import contextlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from conf import compose, typed
from conf.command import run
from conf.exits import ConfigError, DatasetError
from data_prep.publish import publish_page
from pretrain.watching.metrics_log import FILE_NAME
from pretrain.watching.page_server import LiveRuns, server
from pretrain.watching.run_directories import logged_runs
from pretrain.watching.run_log import read_runs
from pretrain.watching.run_page import page
from pretrain.watching.run_status import status_lines
from pretrain.watching.workspace import WorkspaceConfig, publish

USAGE = """
Show training runs.

  python -m pretrain.dashboard run_dir=RUN                     serve a live page of one run
  python -m pretrain.dashboard runs=DIR                        … of every run below a directory
  python -m pretrain.dashboard runs=[RUN_A,RUN_B] port=9000    … of chosen runs
  python -m pretrain.dashboard run_dir=RUN export=page.html    write one self-contained file
  python -m pretrain.dashboard status runs=DIR [--watch]       print a line per run [again every 10 s]
  python -m pretrain.dashboard --publish wandb.project=P [wandb.entity=E]  save the panels as a W&B view

The page is served on 127.0.0.1 only; from elsewhere: ssh -L 8765:127.0.0.1:8765 HOST
"""
# What people type; the setting that it stands for comes first, so that a written one wins.
_FLAGS = {"--watch": "watch=10", "--publish": "publish"}
_CLEAR_SCREEN = "\x1b[H\x1b[2J"


@dataclass(frozen=True)
class DashboardConfig:
    """Which runs to show, and how."""

    run_dir: str | None = None
    runs: Any = None
    export: str | None = None
    port: int | None = None
    watch: float | None = None
    wandb: WorkspaceConfig = field(default_factory=WorkspaceConfig)

    def __post_init__(self):
        if self.port is not None and not 0 <= self.port < 2**16:
            raise ConfigError(f"port {self.port} is not a port; choose one from 1024 to 65535")
        if self.watch is not None and self.watch <= 0:
            raise ConfigError(f"watch={self.watch:g} is not a number of seconds above 0")


def main(arguments: list[str]) -> int:
    """Do what the first word asks for, `status` or `publish`; without one, export or serve the page."""
    word = arguments[0] if arguments and "=" not in arguments[0] else ""
    config = typed(DashboardConfig, compose("dashboard", arguments[1:] if word else arguments))
    if word == "status":
        print_status(config)
    elif word == "publish":
        print(publish(config.wandb))
    elif word:
        raise ConfigError(f"'{word}' is neither status nor publish; settings are written key=value")
    elif config.export is None:
        serve(config)
    else:
        print(exported(chosen_runs(config), Path(config.export)))
    return 0


def without_flags(arguments: list[str]) -> list[str]:
    """Return the arguments with `--watch` and `--publish` written as what they stand for, words first."""
    settings = [_FLAGS[each] for each in arguments if each in _FLAGS]
    others = [each for each in arguments if each not in _FLAGS]
    words = [each for each in (*settings, *others) if "=" not in each and not each.startswith("-")]
    return [*words, *(each for each in (*settings, *others) if each not in words)]


def chosen_runs(config: DashboardConfig) -> list[Path]:
    """Return the run directories that the config names and that have logged something.

    Raises ConfigError for a directory that does not exist, DatasetError if no run has logged anything.
    """
    if (config.run_dir is None) == (config.runs is None):
        raise ConfigError("give either run_dir=RUN or runs=DIR (or runs=[RUN_A,RUN_B])")
    runs = config.runs or [config.run_dir]
    found = logged_runs(runs)
    if not found:
        named = [Path(str(path)) for path in ([runs] if isinstance(runs, str) else runs)]
        where = (
            f"no run below {named[0]}" if isinstance(runs, str) else f"none of {', '.join(map(str, named))}"
        )
        raise DatasetError(f"{where} has a {FILE_NAME}: nothing has been logged yet")
    return found


def exported(run_dirs: list[Path], target: Path) -> Path:
    """Write the page of these runs to `target`, whole or not at all, and return its absolute path."""
    return publish_page(target, page(read_runs(run_dirs), live=False))


def serve(config: DashboardConfig) -> None:
    """Serve the live page until interrupted."""
    runs = LiveRuns(lambda: chosen_runs(config))
    runs.read_ahead()
    web = server(runs, config.port)
    print(f"http://127.0.0.1:{web.server_port}/  (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt), web:
        web.serve_forever()


def print_status(config: DashboardConfig) -> None:
    """Print a line per run, once or until interrupted."""
    live = LiveRuns(lambda: chosen_runs(config))
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            text = "\n".join(status_lines(live.updated()))
            print(_CLEAR_SCREEN + text if config.watch and sys.stdout.isatty() else text, flush=True)
            if config.watch is None:
                return
            time.sleep(config.watch)


def _composed(arguments: list[str]) -> DictConfig:
    return compose("dashboard", [each for each in arguments if "=" in each])


if __name__ == "__main__":
    run(
        main,
        name="pretrain.dashboard",
        config="dashboard",
        usage=USAGE,
        flags=without_flags,
        composed=_composed,
    )
