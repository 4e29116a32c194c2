"""Submit a run as SLURM jobs: prepare (an array) → finalize → train, checked before anything is submitted.

usage: python -m slurm.submit experiment=NAME cluster=SITE run_dir=RUN [key=value …]

  data.index=DIR/index.json                       train on a data set that is there
  prepare.corpus=jsonl prepare.corpus.paths=[…]   or let the jobs prepare it; any setting of conf/prepare.yaml
  prepare.output=DIR                              and keep it there (as a rule in RUN/data)
  cluster.slurm.train.nodes=4                     any setting of the cluster's file in conf/cluster/
  --dry-run            check and print; write and submit nothing
  --only train         or prepare
  --watch              follow the jobs until the last has ended

A run that has been submitted before goes on: python -m slurm.submit run_dir=RUN
"""

import fcntl
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from conf import compose, override_key, typed
from conf.command import run as run_command
from conf.exits import ConfigError, Exit, RefusedError
from data_prep.prepare import PrepareConfig
from pretrain import frozen
from pretrain.config import TrainConfig
from pretrain.storage import durable
from slurm import finalize, preflight, scheduler, snapshot, watch
from slurm.chain import Request, jobs
from slurm.site import environment_file, site

_JOBS = "jobs.json"
_FLAGS = {"--dry-run": "dry_run=true", "--watch": "watch=true"}


@dataclass(frozen=True)
class SubmitConfig:
    """What to do with a run."""

    run_dir: str | None = None
    only: str | None = None
    dry_run: bool = False
    watch: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        if self.only not in (None, "prepare", "train"):
            raise ConfigError(f"only={self.only!r} is neither prepare nor train")


@dataclass(frozen=True)
class Submission:
    """A request, and the settings that will be frozen with it."""

    request: Request
    config: TrainConfig | None
    raw: DictConfig | None


def main(overrides: list[str]) -> int:
    """Check, print and submit; return the exit code."""
    command, submission = settled(overrides)
    request = submission.request
    faults = list(_faults(submission))
    for fault in faults:
        print(f"slurm.submit: fault: {' '.join(fault.split())}", file=sys.stderr)
    if faults:
        many = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise ConfigError(f"{many}; nothing was written or submitted")
    _show(submission)
    if command.dry_run:
        print("submit: a dry run; nothing was written or submitted")
        return Exit.OK
    ids = _submitted(submission)
    for name, job in ids.items():
        print(f"submit: job {job}: {name}, log in {request.directory / 'logs'}")
    print(f"submit: squeue --jobs={','.join(ids.values())}   scancel {' '.join(ids.values())}")
    return watch.follow(request, ids) if command.watch else Exit.OK


def settled(overrides: Sequence[str]) -> tuple[SubmitConfig, Submission]:
    """Return what the command line asks for, all settings checked."""
    ours, prepare, train = _sorted(overrides)
    command = typed(SubmitConfig, compose("submit", ours))
    if command.run_dir is None and command.only != "prepare":
        raise ConfigError("run_dir has no value; add run_dir=DIRECTORY to the command")
    run_dir = Path(command.run_dir).expanduser().resolve() if command.run_dir else None
    output = _output(prepare, train, run_dir, command)
    directory = run_dir / "slurm" if run_dir else Path(f"{output}.jobs")
    raw = config = None
    if run_dir and command.only != "prepare":
        index = [f"data.index='{output}/index.json'"] if output else []
        raw = frozen.settled([*train, f"run_dir='{run_dir}'", *index])
        config = typed(TrainConfig, raw)
        raw.data.index = str(Path(config.data.index).expanduser().resolve())
    cluster = raw.cluster if raw is not None else compose("train", [*train, "run_dir=none"]).cluster
    request = Request(
        directory=directory,
        site=site(cluster),
        name=command.name or (run_dir or directory).name.replace(" ", "-"),
        run_dir=run_dir if raw is not None else None,
        output=output,
        prepare=tuple(prepare),
    )
    return command, Submission(request, config, raw)


def _sorted(overrides: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the settings of this command, of data_prep.prepare and of the trainer."""
    ours, prepare, train = [], [], []
    for override in overrides:
        key = override_key(override)
        sign = override[: len(override) - len(override.lstrip("+~"))]
        if key.startswith("prepare."):
            prepare.append(sign + override.lstrip("+~").removeprefix("prepare."))
        elif key in ("only", "dry_run", "watch", "name", "run_dir"):
            ours.append(override)
        else:
            train.append(override)
    return ours, prepare, train


def _output(
    prepare: list[str], train: Sequence[str], run_dir: Path | None, command: SubmitConfig
) -> Path | None:
    """Return where the data set is to be prepared, taken out of `prepare`; None if it is there already."""
    given = [each for each in prepare if override_key(each) == "output"]
    if (not prepare and command.only != "prepare") or command.only == "train":
        return None
    for each in given:
        prepare.remove(each)
    index = [each.partition("=")[2].strip("'\"") for each in train if override_key(each) == "data.index"]
    if given:
        output = Path(given[-1].partition("=")[2].strip("'\""))
    elif index:
        output = Path(index[-1]).parent
    elif run_dir:
        output = run_dir / "data"
    else:
        raise ConfigError("prepare.output has no value; add prepare.output=DIRECTORY to the command")
    output = output.expanduser().resolve()
    # Whatever is wrong with the corpus is told now, not by sixteen jobs tonight.
    typed(PrepareConfig, compose("prepare", [*prepare, f"output='{output}'"]))
    return output


def _faults(submission: Submission) -> Iterator[str]:
    """Yield all that would go wrong."""
    request, config = submission.request, submission.config
    yield from preflight.twin_faults(request.directory)
    yield from preflight.cluster_faults(
        request.site, trains=config is not None, prepares=request.output is not None
    )
    yield from preflight.place_faults(request.run_dir or request.directory)
    if request.output is not None:
        yield from preflight.folder_faults(request.output)
    if config is not None:
        if request.output is None:
            yield from preflight.data_faults(config.data.index, config.model.vocabulary)
        yield from preflight.batch_faults(config, request.site.train)
        yield from preflight.time_faults(request.site.train)
        yield from preflight.space_faults(config)
        yield from preflight.tracking_faults(config)


def _show(submission: Submission) -> None:
    """Print what will be submitted."""
    request, config = submission.request, submission.config
    if config is not None:
        job = request.site.train
        print(
            f"submit: {request.run_dir}: {config.steps:,} steps of {config.batch.tokens:,} tokens on "
            f"{job.nodes} nodes × {job.ranks_per_node} ranks, ZeRO-{config.zero.stage}, {config.precision}"
        )
    placeholders: dict[str, str] = {}
    for job in jobs(request):
        print(f"\n# {job.name}\nsbatch {shlex.join(job.sbatch(placeholders))}")
    print()
    for script in dict.fromkeys(job.script.name for job in jobs(request)):
        print(f"--- {script}\n{(snapshot.ROOT / 'slurm' / script).read_text()}---")


def _submitted(submission: Submission) -> dict[str, str]:
    """Write what the jobs need, submit them, and return their ids by name."""
    request = submission.request
    durable.make_root(request.directory / "logs")
    with (request.directory / ".submit.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two submissions at once, the second meets the first's jobs
        for fault in preflight.twin_faults(request.directory):
            raise RefusedError(fault)
        commit = snapshot.take(request.directory)
        (request.directory / "environment.sh").write_text(environment_file(request.site))
        if request.output is not None:
            finalize.save(request)
        if submission.raw is not None and request.run_dir is not None:
            _freeze(submission.raw, request.run_dir)
        print(f"submit: code {commit} in {request.directory / 'code'}")
        return _chained(request)


def _freeze(raw: DictConfig, run_dir: Path) -> None:
    """Write the settings with which every start of the run trains."""
    with durable.opened_directory(run_dir) as directory:
        text = OmegaConf.to_yaml(raw, resolve=True)
        durable.replace_file(frozen.CONFIG, text.encode(), within=directory, nonce=str(os.getpid()))


def _chained(request: Request) -> dict[str, str]:
    """Submit the jobs one after the other; if one is refused, take those before it back."""
    ids: dict[str, str] = {}
    for job in jobs(request):
        try:
            ids[job.name] = scheduler.submit(job.sbatch(ids), request.environment)
        except OSError as error:
            for submitted in ids.values():
                scheduler.ask("scancel", submitted)
            raise ConfigError(f"{job.name}: {error}; nothing is left in the queue") from error
        (request.directory / _JOBS).write_text(json.dumps(ids, indent=1) + "\n")
    return ids


def _without_flags(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with this command's flags written as settings."""
    settings = []
    words = iter(arguments)
    for word in words:
        if word == "--only":
            settings.append(f"only={next(words, '')}")
        else:
            settings.append(_FLAGS.get(word, word))
    return settings


if __name__ == "__main__":
    sys.argv[1:] = _without_flags(sys.argv[1:])
    run_command(main, name="slurm.submit", config="submit", usage=__doc__)
