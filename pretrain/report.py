"""Write how a run went, beside a published one: on track, behind, or diverged, and what that rests on.

python -m pretrain.report run_dir=RUN [reference=gpt2_124m_fineweb] [usd_per_gpu_hour=2.5]
python -m pretrain.report runs=DIR                a table of all runs below DIR, the best first

Writes report.md and report.html, one file without any outside request, and prints the verdict.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import compose, typed
from conf.command import run as run_command
from conf.exits import ConfigError, DatasetError
from data_prep.publish import publish_page
from pretrain.planning.hardware import hardware
from pretrain.reporting.comparison import comparison
from pretrain.reporting.document import Document
from pretrain.reporting.markdown import markdown, table_lines
from pretrain.reporting.page import page
from pretrain.reporting.scorecard import scorecard
from pretrain.reporting.sections import document
from pretrain.watching.metrics_log import FILE_NAME
from pretrain.watching.reference import named
from pretrain.watching.run_directories import logged_runs
from pretrain.watching.run_log import RunLog, read_run
from pretrain.watching.run_summary import settings


@dataclass(frozen=True)
class ReportConfig:
    """Which runs, beside what, and where to."""

    run_dir: str | None = None
    runs: Any = None  # a directory or a list
    output: str | None = None
    reference: str | None = None
    usd_per_gpu_hour: float | None = None

    def __post_init__(self) -> None:
        if self.usd_per_gpu_hour is not None and not self.usd_per_gpu_hour >= 0:
            raise ValueError(f"usd_per_gpu_hour {self.usd_per_gpu_hour} is negative")


def main(overrides: list[str]) -> None:
    """Write the report and print what it says first. ConfigError if no run, or both kinds, is named."""
    config = typed(ReportConfig, compose("report", overrides))
    if (config.run_dir is None) == (config.runs is None):
        raise ConfigError("give either run_dir=RUN or runs=DIR (or runs=[RUN_A,RUN_B])")
    if config.run_dir is not None:
        folder = Path(config.run_dir)
        found = report(read_run(folder), config)
    else:
        folder, paths = _chosen(config.runs)
        found = comparison([read_run(path) for path in paths], folder.resolve().name)
    written = write(found, Path(config.output) if config.output else folder)
    print(f"{found.title}: {found.verdict}. {found.lead}")
    if config.runs is not None and found.sections[0].table:
        print("\n".join(table_lines(found.sections[0].table)))
    print(*written, sep="\n")


def report(run: RunLog, config: ReportConfig) -> Document:
    """Return the report of one run, beside the reference asked for or the one that it was trained with."""
    given = settings(run)
    name = config.reference or given.get("reference")
    price = config.usd_per_gpu_hour
    if price is None and (device := given.get("cluster.hardware")):
        price = hardware(str(device)).usd_per_hour
    return document(scorecard(run, named(str(name)) if name else None, usd_per_gpu_hour=price))


def write(found: Document, folder: Path) -> list[Path]:
    """Write both forms into `folder`, each whole or not at all; return their absolute paths."""
    forms = {"report.md": markdown(found), "report.html": page(found)}
    return [publish_page(folder / name, text) for name, text in forms.items()]


def _chosen(runs: Any) -> tuple[Path, list[Path]]:
    """Return the folder that the report goes to, and the runs that have logged something."""
    found = logged_runs(runs)
    if isinstance(runs, str):
        folder = Path(runs)
    else:
        folder = Path(os.path.commonpath([Path(str(path)).resolve() for path in runs]))
    if not found:
        raise DatasetError(f"no run below {folder} has a {FILE_NAME}: nothing has been logged yet")
    return folder, found


if __name__ == "__main__":
    run_command(main, name="pretrain.report", config="report", usage=__doc__)
