"""How a chain of jobs goes on, told as it changes, and a summary when the last job has ended."""

import time
from collections.abc import Mapping
from pathlib import Path

from data_prep.index import INDEX
from slurm import record, scheduler, sweep
from slurm.chain import Request
from slurm.finalize import FAILED
from slurm.standing import is_done, newest_step

REPORT = "report.md"  # what pretrain.report writes beside the runs
_POLL_SECONDS = 2.0


def follow(request: Request, ids: Mapping[str, str]) -> int:
    """Print every change until all jobs have ended; return 0 if what was asked for is there, else 1."""
    last: dict[str, str] = {}
    while True:
        states = {name: scheduler.job_state(job) for name, job in ids.items()}
        told = {name: described(ids[name], state) for name, state in states.items()}
        for name, words in told.items():
            if last.get(name) != words:
                print(f"submit: {time.strftime('%H:%M:%S')} job {ids[name]} ({name}): {words}", flush=True)
        last = told
        if not scheduler.ALIVE & set(states.values()):
            break
        time.sleep(_POLL_SECONDS)
    return _summary(request, states)


def described(job: str, state: str) -> str:
    """Return a job's state in words; of a pending one also its reason, and how to let a held one go."""
    reason = scheduler.pending_reason(job) if state == "PENDING" else ""
    if not reason:
        return state or "gone"
    held = "held" in reason.lower()  # by its user, or by SLURM where a node could not start it
    return f"{state} ({reason})" + (f"; scontrol release {job} lets it go on" if held else "")


def _summary(request: Request, states: Mapping[str, str]) -> int:
    failed = request.directory / FAILED
    if failed.exists():
        print(failed.read_text())
    if request.run_dir is not None:
        run_dirs = list(sweep.runs(request.run_dir).values()) if request.tasks else [request.run_dir]
        for run_dir in run_dirs:
            _tell_attempts(run_dir)
        done = all(is_done(each) for each in run_dirs)
        if request.tasks and (table := request.run_dir / REPORT).exists():
            print(f"{table.read_text()}\nsubmit: compared in {table}")
    else:
        done = request.output is not None and (request.output / INDEX).exists()
    ends = ", ".join(f"{name} {state.lower()}" for name, state in states.items())
    print(f"submit: {'done' if done else 'not done'}: {ends}")
    return 0 if done else 1


def _tell_attempts(run_dir: Path) -> None:
    for outcome in record.outcomes(run_dir):
        steps = f"checkpoint {outcome.from_step} → {outcome.to_step}"
        print(f"submit: start {outcome.job}.{outcome.restart}: {outcome.decision}: {outcome.reason}; {steps}")
    print(f"submit: the newest checkpoint of {run_dir} is of step {newest_step(run_dir)}")
