"""Submit a run as SLURM jobs: prepare (an array) → finalize → train, checked before anything is submitted.

usage: python -m slurm.submit experiment=NAME cluster=SITE run_dir=RUN [key=value …]

  data.index=DIR/index.json                       train on a data set that is there
  prepare.corpus=jsonl prepare.corpus.paths=[…]   or let the jobs prepare it; any setting of conf/prepare.yaml
  prepare.output=DIR                              and keep it there (as a rule in RUN/data)
  cluster.slurm.train.nodes=4                     any setting of the cluster's file in conf/cluster/
  --dry-run            check and print; write and submit nothing
  --only train         or prepare
  --watch              follow the jobs until the last has ended
  --multirun schedule.peak=1e-3,3e-4     a sweep: an array with a run for each value in run_dir/00-…, 01-…
                       and a table that compares them; of several settings, every combination

A run or a sweep that has been submitted before goes on: python -m slurm.submit run_dir=RUN
"""

import fcntl
import json
import os
import shlex
import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from conf.command import run as run_command
from conf.exits import ConfigError, Exit, RefusedError
from pretrain import frozen
from pretrain.storage import durable
from slurm import finalize, preflight, scheduler, snapshot, watch
from slurm.asking import ask
from slurm.chain import Request, jobs
from slurm.site import environment_file
from slurm.submission import Planned, Submission, composed, settled

_JOBS = "jobs.json"
_FLAGS = {
    "--dry-run": "dry_run=true",
    "--watch": "watch=true",
    "--multirun": "multirun=true",
    "-m": "multirun=true",
}


def main(overrides: list[str]) -> int:
    """Check, print and submit; return the exit code."""
    command, submission = settled(overrides)
    request = submission.request
    faults = list(preflight.faults(submission))
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


def _show(submission: Submission) -> None:
    """Print what will be submitted."""
    request, share = submission.request, submission.request.site.train
    ranks = f"{share.nodes} nodes × {share.ranks_per_node} ranks"
    for run in submission.runs:
        config = run.config
        steps = f"{config.steps:,} steps of {config.batch.told} tokens"
        print(f"submit: {run.directory}: {steps} on {ranks}, ZeRO-{config.zero.stage}, {config.precision}")
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
        for run in submission.runs:
            _freeze(run)
        print(f"submit: code {commit} in {request.directory / 'code'}")
        return _chained(request)


def _freeze(run: Planned) -> None:
    """Write the settings with which every start of the run trains."""
    durable.make_root(run.directory)
    with durable.opened_directory(run.directory) as directory:
        text = OmegaConf.to_yaml(run.raw, resolve=True)
        durable.replace_file(frozen.CONFIG, text.encode(), within=directory, nonce=str(os.getpid()))


def _chained(request: Request) -> dict[str, str]:
    """Submit the jobs one after the other; if one is refused, take those before it back."""
    ids: dict[str, str] = {}
    for job in jobs(request):
        try:
            ids[job.name] = scheduler.submit(job.sbatch(ids), request.environment)
        except OSError as error:
            for submitted in ids.values():
                ask("scancel", submitted)
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
    run_command(
        main,
        name="slurm.submit",
        config="submit",
        usage=__doc__,
        flags=_without_flags,
        composed=composed,
    )
