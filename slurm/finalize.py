"""Whether a corpus is prepared in whole: repeats the array tasks that failed, then makes the shards.

python -m slurm.finalize jobs=DIR      inside a job; DIR/chain.json was written by slurm.submit
python -m slurm.finalize output=DATA   without it: makes the shards, or says which units are missing

SLURM's `afterok` on an array stays unsatisfied for ever once a task has failed, even when that task was
run again and succeeded. So this job runs after the array in any case, and looks at the files.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from conf import typed
from conf.command import run as run_command
from conf.exits import DatasetError
from conf.quoting import quoted, value_of
from data_prep import finalize
from data_prep.index import INDEX
from data_prep.plan import PLAN, read_plan, spill_folder
from data_prep.spill import read_marker
from slurm import scheduler
from slurm.chain import Request, prepare_job
from slurm.site import Site

CHAIN = "chain.json"
FAILED = "failed.txt"
_TAIL_LINES = 15


def main(overrides: list[str]) -> None:
    """Repeat what is missing, in a bounded number of rounds, then finalize."""
    jobs = value_of("jobs", overrides)
    if jobs is None:
        finalize.main([*overrides, "task_index=0", "task_count=1"])
        return
    request = load(Path(jobs))
    assert request.output is not None
    (request.directory / FAILED).unlink(missing_ok=True)
    for number in range(1, request.site.prepare.rounds + 1):
        tasks = missing_tasks(request.output, request.site.prepare.tasks)
        if not tasks:
            break
        print(f"finalize: round {number}: repeating tasks {', '.join(map(str, tasks))}", flush=True)
        _repeat(request, tasks)
    if tasks := missing_tasks(request.output, request.site.prepare.tasks):
        raise DatasetError(_failure(request, tasks))
    finalize.main([f"output={quoted(request.output)}", "task_index=0", "task_count=1"])


def save(request: Request) -> None:
    """Write down what this job needs to repeat tasks."""
    assert request.output is not None
    facts = {
        "site": asdict(request.site),
        "name": request.name,
        "output": str(request.output),
        "prepare": request.prepare,
    }
    (request.directory / CHAIN).write_text(json.dumps(facts, indent=1) + "\n")


def load(directory: Path) -> Request:
    """Return what `save` wrote."""
    facts = json.loads((directory / CHAIN).read_text())
    settings = OmegaConf.create(facts["site"])
    assert isinstance(settings, DictConfig)
    return Request(
        directory, typed(Site, settings), facts["name"], None, Path(facts["output"]), tuple(facts["prepare"])
    )


def missing_tasks(output: Path, count: int) -> list[int]:
    """Return the array tasks of which a unit is not done; all, if none has come as far as the plan."""
    if (output / INDEX).exists():
        return []
    if not (output / PLAN).exists():
        return list(range(count))
    plan, folder = read_plan(output), spill_folder(output)
    missing = [unit for unit in range(len(plan.units)) if read_marker(folder, unit, plan.digest) is None]
    return sorted({unit % count for unit in missing})


def _repeat(request: Request, tasks: list[int]) -> None:
    """Run some tasks again and return when they have ended, well or badly: the files will tell."""
    job = prepare_job(request, [str(task) for task in tasks])
    environment = {**request.environment, "GPT2_ARRAY_TASKS": str(request.site.prepare.tasks)}
    try:
        number = scheduler.submit(["--wait", *job.sbatch({})], environment)
    except OSError as error:  # sbatch --wait leaves with the array's worst exit code
        print(f"finalize: {error}", flush=True)
        return
    print(f"finalize: job {number} has repeated them", flush=True)


def _failure(request: Request, tasks: list[int]) -> str:
    """Return what failed in one line; leave the logs' ends in a file and on the standard error."""
    ends = []
    for task in tasks:
        logs = sorted((request.directory / "logs").glob(f"*-prepare-*_{task}.log"), key=os.path.getmtime)
        if logs:
            lines = logs[-1].read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            ends.append("\n".join([f"--- the end of {logs[-1]}", *lines]))
    text = "\n".join(ends) + "\n"
    (request.directory / FAILED).write_text(text)
    print(text, file=sys.stderr, flush=True)
    listed = ", ".join(map(str, tasks))
    return (
        f"tasks {listed} of {request.site.prepare.tasks} failed in the array and in "
        f"{request.site.prepare.rounds} repetitions; mend the cause (their logs end above) and submit again"
    )


if __name__ == "__main__":
    run_command(main, name="slurm.finalize", config="finalize", usage=__doc__)
