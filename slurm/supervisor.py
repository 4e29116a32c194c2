"""The batch script of a training job, on its first node: starts the ranks and settles what comes after.

python -m slurm.supervisor run_dir=RUN [key=value …]      inside a job; see train.sbatch
python -m slurm.supervisor runs=SWEEP                     inside an array: task N trains run N of the sweep

SLURM's signal before the time limit comes here alone and becomes a file STOP, which the trainer heeds
after its step. Whether a run is done is read from its checkpoints, never from srun's status, which is 0
for some cancelled jobs. A job is requeued only while SLURM calls it RUNNING.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from conf import compose, override_key
from conf.command import run as run_command
from conf.exits import ConfigError, Exit, LeaseHeldError
from conf.quoting import quoted, value_of
from slurm import launch, record, scheduler, stop_file, sweep
from slurm.decision import Decision, Facts, crashes_at, decide, is_of_the_node
from slurm.record import Outcome
from slurm.site import Site, site
from slurm.standing import is_done, newest_step
from slurm.stop_file import StopFile

PAGE = "page.html"
_LAUNCHES = 4  # srun gives up at once if the controller is away for a moment
_LAUNCH_PAUSE_SECONDS = 10.0
_TAIL_LINES = 20
_ENDS = {"stop_at", "validation.patience"}  # with another, a run that has ended goes on


@dataclass(frozen=True)
class Start:
    """This start of this job."""

    run_dir: Path
    overrides: list[str]  # of the trainer
    settings: Site
    job: str
    restart: int
    from_step: int  # of the newest checkpoint
    began_at: float  # Unix time

    @property
    def name(self) -> str:
        """A name that no other start of any job has."""
        return f"{self.job}.{self.restart}"

    def is_replaced(self) -> bool:
        """Say whether a later start has begun, while this one's node was cut off."""
        return record.is_replaced(self.run_dir, self.job, self.restart)

    def is_done(self) -> bool:
        """Say whether nothing of the run is left to train."""
        return is_done(self.run_dir, _settings(self.run_dir, self.overrides))

    @property
    def logs(self) -> Path:
        """The directory of the ranks' logs."""
        return self.run_dir / "logs" / self.name


def main(overrides: list[str]) -> int:
    """Supervise one start of a job; return the exit code of its batch script."""
    start = _start(overrides)
    stop = StopFile(start.run_dir, say, start.name, start.is_replaced)
    if stop.is_users():
        say(f"{start.run_dir / stop_file.NAME} asks to stop: nothing was started; remove it and submit again")
        return Exit.OK
    if start.is_done():
        say(f"{start.run_dir} is done; nothing to do")
        return Exit.OK
    _refuse_second(start)
    start.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # private, as the trainer would make it
    stop.remove_leftover()
    _tell_lost(start.run_dir)
    stop.listen()
    began = time.monotonic()
    nodes = scheduler.hosts(os.environ["SLURM_JOB_NODELIST"])
    record.begin(start.run_dir, start.job, start.restart, nodes=nodes, from_step=start.from_step)
    ended = _launched(start)
    if start.is_replaced():
        say(f"start {start.name} was replaced by a later one while its node was away; nothing of it counts")
        return Exit.LEASE_HELD
    decision = _decided(start, ended, asked_by_user=stop.is_users())
    outcome = _outcome(start, ended, decision, time.monotonic() - began)
    stop.ignore()
    stop.remove_own()
    record.end(start.run_dir, outcome)
    _tell(outcome, start.logs, ended)
    if outcome.decision == "done":
        _draw_page(start.run_dir)
    if outcome.decision != "requeue":
        return decision.exit_code
    return _requeue(outcome)


def say(text: str) -> None:
    """Write a line into the job's log."""
    print(f"slurm: {time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


def _start(overrides: Sequence[str]) -> Start:
    """Return the start of a job that this process is."""
    run_dir, overrides = _run(overrides)
    cluster = site(_settings(run_dir, overrides).cluster)
    job, restart = scheduler.own_job(), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    return Start(run_dir, overrides, cluster, job, restart, newest_step(run_dir), time.time())


def _run(overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """Return the run's directory and the trainer's settings; of a sweep, the run of this array task."""
    if "SLURM_JOB_ID" not in os.environ:
        raise ConfigError("this is no SLURM job; use sbatch slurm/train.sbatch, or python -m slurm.submit")
    runs, run_dir = value_of("runs", overrides), value_of("run_dir", overrides)
    if runs is not None:
        task = int(os.environ.get("SLURM_ARRAY_TASK_ID", "-1"))
        directory = sweep.run_of_task(Path(runs).expanduser().resolve(), task)
    elif run_dir is not None:
        directory = Path(run_dir).expanduser().resolve()
    else:
        raise ConfigError("run_dir has no value; add run_dir=DIRECTORY to the command")
    rest = [each for each in overrides if override_key(each) not in ("runs", "run_dir")]
    return directory, [*rest, f"run_dir={quoted(directory)}"]


def _settings(run_dir: Path, overrides: Sequence[str]) -> DictConfig:
    """Return the run's settings: the frozen ones, if it has begun, but for a new end."""
    frozen, composed = run_dir / "config.yaml", compose("train", overrides)
    if not frozen.exists():
        return composed
    raw = OmegaConf.load(frozen)
    assert isinstance(raw, DictConfig)
    for key in {override_key(each) for each in overrides} & _ENDS:
        OmegaConf.update(raw, key, OmegaConf.select(composed, key))
    return raw


def _refuse_second(start: Start) -> None:
    """Raise LeaseHeldError if another job, alive by SLURM's word, has the run or is about to go on with it.

    One that is COMPLETING may be as good as gone: if its ranks live on, the lease will say so.
    """
    for job in record.unsettled(start.run_dir):
        state = scheduler.job_state(job) if job != start.job else ""
        if state in scheduler.ALIVE - {"COMPLETING"}:
            raise LeaseHeldError(f"job {job} ({state}) holds this run already; wait for it, or scancel {job}")


def _tell_lost(run_dir: Path) -> None:
    """Record the starts that ended without a word, and name their nodes that are down."""
    for launch_line in record.unended(run_dir):
        nodes = scheduler.down(launch_line["nodes"])
        reason = f"lost with {', '.join(nodes)}" if nodes else "ended by SLURM before it could tell"
        say(f"the start before this one, {launch_line['job']}.{launch_line['restart']}, was {reason}")
        record.end(
            run_dir,
            Outcome(
                job=launch_line["job"],
                restart=launch_line["restart"],
                exit_code=None,
                reason=reason,
                decision="lost",
                from_step=launch_line["from_step"],
                to_step=newest_step(run_dir),
                faulty_nodes=tuple(nodes),
            ),
        )


def _launched(start: Start) -> launch.Ended:
    """Start the ranks, again if SLURM could not, and return how they ended."""
    ended = launch.Ended(1, "", 0, started=False)
    for number in range(1, _LAUNCHES + 1):
        environment = launch.rank_environment(start.settings.train, os.environ, start.job)
        environment["GPT2_START"] = start.name  # as in the file STOP
        command = launch.command(start.settings.train, environment, start.logs, start.overrides)
        where = f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
        nodes = os.environ["SLURM_JOB_NODELIST"]
        say(f"start {start.name} on {nodes}, meeting at {where}, logs in {start.logs}")
        ended = launch.run(command, environment, start.logs, start.is_replaced)
        if ended.started or scheduler.job_state(start.job) != "RUNNING":
            return ended
        say(f"SLURM could not start the ranks (try {number} of {_LAUNCHES})")
        time.sleep(_LAUNCH_PAUSE_SECONDS)
    return ended


def _decided(start: Start, ended: launch.Ended, *, asked_by_user: bool) -> Decision:
    """Return what becomes of the job now that its ranks have ended."""
    crashes = crashes_at(newest_step(start.run_dir), record.outcomes(start.run_dir), ended.exit_code)
    return decide(
        Facts(
            exit_code=ended.exit_code,
            is_done=start.is_done(),
            asked_by_user=asked_by_user,
            job_state=_state(start),
            crashes=crashes,
            most_crashes=start.settings.train.most_crashes,
        )
    )


def _state(start: Start) -> str:
    """Return what SLURM calls the job, if it still means this start of it."""
    state = scheduler.job_state(start.job)
    restarts = scheduler.restarts(start.job)
    return state if restarts in (None, start.restart) else f"{state} elsewhere, in start {restarts}"


def _outcome(start: Start, ended: launch.Ended, decision: Decision, seconds: float) -> Outcome:
    """Return what is recorded of this start."""
    crashed = decision.verdict in ("requeue", "failed") and ended.exit_code not in (0, *record.NO_CRASHES)
    cause = record.cause(start.run_dir, start.began_at) if crashed else ""
    faulty = [ended.node] if ended.node and crashed and is_of_the_node(ended.exit_code, cause) else []
    if decision.verdict == "left":
        faulty = scheduler.down(scheduler.hosts(os.environ["SLURM_JOB_NODELIST"]))
    outcome = Outcome(
        job=start.job,
        restart=start.restart,
        exit_code=ended.exit_code,
        reason="; ".join(filter(None, (decision.reason, cause))),
        decision=decision.verdict,
        from_step=start.from_step,
        to_step=newest_step(start.run_dir),
        seconds=round(seconds, 1),
        faulty_nodes=tuple(faulty),
    )
    if outcome.decision == "requeue" and crashed:
        outcome = replace(outcome, excluded_nodes=_to_exclude([*record.outcomes(start.run_dir), outcome]))
    return outcome


def _to_exclude(history: Sequence[Outcome]) -> tuple[str, ...]:
    """Return the nodes that were at fault repeatedly, if enough others are up to start without them."""
    bad = record.bad_nodes(history)
    name = os.environ.get("SLURM_JOB_PARTITION", "")
    up = next((each.nodes for each in scheduler.partitions() if each.name == name), 0) if bad else 0
    needed = int(os.environ["SLURM_JOB_NUM_NODES"])
    if bad and up - len(bad) < needed:
        say(f"{', '.join(bad)}: at fault repeatedly, but {up} nodes are up and {needed} are needed")
        return ()
    return tuple(bad)


def _tell(outcome: Outcome, logs: Path, ended: launch.Ended) -> None:
    """Say in the job's log how it ended."""
    where = ", ".join(outcome.faulty_nodes) or (ended.node if ended.exit_code else "")
    nodes = f" on {where}" if where else ""
    steps = f"checkpoint {outcome.from_step} → {outcome.to_step}, {outcome.seconds:.0f} s"
    say(f"{outcome.decision}: {outcome.reason}{nodes}; {steps}")
    if outcome.exit_code not in (0, Exit.REQUEUE) and outcome.decision in ("failed", "requeue"):
        _show_tail(logs, ended.rank)


def _draw_page(run_dir: Path) -> None:
    """Write the finished run's page beside it; a run without one is as finished."""
    page = run_dir / PAGE
    python = os.environ.get("GPT2_PYTHON", sys.executable)
    settings = [f"run_dir={quoted(run_dir)}", f"export={quoted(page)}"]
    done = subprocess.run([python, "-m", "pretrain.dashboard", *settings], check=False)
    say(f"its page is {page}" if done.returncode == 0 else f"no page: exit code {done.returncode}")


def _requeue(outcome: Outcome) -> int:
    """Put the job back into the queue; return the exit code of the batch script, for when that fails."""
    if outcome.excluded_nodes:
        say(f"from now on without {', '.join(outcome.excluded_nodes)}: at fault repeatedly")
    if why_not := scheduler.requeue(outcome.job, exclude=outcome.excluded_nodes):
        say(f"not requeued: {why_not}; submit again to go on")
        return outcome.exit_code or Exit.REQUEUE
    return Exit.OK


def _show_tail(logs: Path, rank: int) -> None:
    """Print the last lines of the rank that ended first."""
    for log in logs.glob(f"rank-{rank}-*.log"):
        lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        print(f"--- the end of {log}", *lines, "---", sep="\n", flush=True)


if __name__ == "__main__":
    try:
        run_command(main, name="slurm.supervisor", config="train", usage=__doc__)
    finally:
        sys.stdout.flush()
