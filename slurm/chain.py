"""Which jobs a request becomes, and with which arguments: prepare (an array) → finalize → train.

The runs of a sweep train as one array, a task for each, and a last job compares them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conf.quoting import quoted
from slurm.site import PrepareJob, Site, TrainJob

SCRIPTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Request:
    """What is to be done, and where it keeps its things."""

    directory: Path  # of the jobs: code, logs, environment
    site: Site
    name: str
    run_dir: Path | None  # or the folder of a sweep's runs; None trains nothing
    output: Path | None  # of the data set; None prepares nothing
    prepare: tuple[str, ...] = ()  # arguments of data_prep.prepare
    tasks: tuple[int, ...] = ()  # numbers of the runs of a sweep that are to be trained

    @property
    def environment(self) -> dict[str, str]:
        """What the batch scripts must be told of this machine and this copy of the code."""
        return {
            "GPT2_CODE": str(self.directory / "code"),
            "GPT2_ENVIRONMENT": str(self.directory / "environment.sh"),
            "GPT2_PYTHON": sys.executable,
        }


@dataclass(frozen=True)
class JobPlan:
    """One job: what `sbatch` is called with, but for what depends on another job's id."""

    name: str
    options: tuple[str, ...]
    script: Path
    arguments: tuple[str, ...]
    after: str | None = None  # the condition and the name of the job before it: afterok:finalize

    def sbatch(self, ids: dict[str, str]) -> list[str]:
        """Return sbatch's arguments, once the jobs before it have their ids."""
        options = list(self.options)
        if self.after is not None:
            condition, _, job = self.after.partition(":")
            options += [f"--dependency={condition}:{ids.get(job, f'<{job}>')}", "--kill-on-invalid-dep=yes"]
        return [*options, str(self.script), *self.arguments]


def jobs(request: Request) -> list[JobPlan]:
    """Return the jobs of a request in the order in which they run."""
    chain = []
    if request.output is not None:
        tasks = request.site.prepare.tasks
        chain.append(prepare_job(request, [f"0-{tasks - 1}"]))
        chain.append(_finalize_job(request))
    if request.run_dir is not None:
        chain.append(_train_job(request, request.run_dir, after_data=bool(chain)))
        if request.tasks:
            chain.append(_report_job(request, request.run_dir))
    return chain


def prepare_job(request: Request, tasks: Sequence[str]) -> JobPlan:
    """Return the array that does the given tasks, such as ["0-15"] or ["3", "7"]."""
    settings = request.site.prepare
    options = (
        *_common(request, "prepare", settings, output="%x-%A_%a.log"),
        f"--array={','.join(tasks)}%{settings.at_once}",
        f"--cpus-per-task={settings.cpus_per_task}",
    )
    arguments = (*request.prepare, f"output={quoted(request.output)}")
    return JobPlan("prepare", options, _script(request, "prepare"), arguments)


def _finalize_job(request: Request) -> JobPlan:
    settings = request.site.prepare
    options = (
        *_common(request, "finalize", settings, output="%x-%j.log"),
        f"--cpus-per-task={settings.cpus_per_task}",
    )
    arguments = (f"jobs={quoted(request.directory)}",)
    return JobPlan("finalize", options, _script(request, "finalize"), arguments, after="afterany:prepare")


def _train_job(request: Request, run_dir: Path, *, after_data: bool) -> JobPlan:
    settings = request.site.train
    output = "%x-%A_%a.log" if request.tasks else "%x-%j.log"
    options = [
        *_common(request, "train", settings, output=output),
        f"--nodes={settings.nodes}",
        *_share_of_a_node(settings),
        f"--signal=B:USR1@{settings.lead_seconds}",
    ]
    if settings.gpus_per_node:
        options.append(f"--gpus-per-node={settings.gpus_per_node}")
    if settings.exclude:
        options.append(f"--exclude={','.join(settings.exclude)}")
    if request.tasks:
        at_once = settings.at_once or len(request.tasks)
        options.append(f"--array={','.join(map(str, request.tasks))}%{at_once}")
    arguments = (f"{'runs' if request.tasks else 'run_dir'}={quoted(run_dir)}",)
    after = "afterok:finalize" if after_data else None
    return JobPlan("train", tuple(options), _script(request, "train"), arguments, after=after)


def _report_job(request: Request, folder: Path) -> JobPlan:
    """Return the job that compares a sweep's runs, whatever became of each."""
    options = _common(request, "report", request.site.prepare, output="%x-%j.log")
    arguments = (f"runs={quoted(folder)}",)
    return JobPlan("report", tuple(options), _script(request, "report"), arguments, after="afterany:train")


def _share_of_a_node(settings: TrainJob) -> list[str]:
    """Return how much of a node the job needs.

    With --ntasks-per-node, SLURM turns a range of nodes into the number that it first gave, and a job
    that has lost one of them waits for it.
    """
    if settings.fewest_nodes < settings.most_nodes:
        return [f"--mincpus={settings.ranks_per_node * settings.cpus_per_rank}"]
    return [f"--ntasks-per-node={settings.ranks_per_node}", f"--cpus-per-task={settings.cpus_per_rank}"]


def _common(request: Request, job: str, settings: TrainJob | PrepareJob, *, output: str) -> list[str]:
    """Return the options that every kind of job has."""
    options = [
        f"--job-name={request.name}-{job}",
        f"--output={str(request.directory / 'logs').replace('%', '%%')}/{output}",
        f"--time={settings.time}",
        "--requeue",
        "--open-mode=append",
    ]
    for option, value in (
        ("partition", settings.partition),
        ("account", settings.account),
        ("qos", settings.qos),
        ("mem", settings.memory),
    ):
        if value is not None:
            options.append(f"--{option}={value}")
    return [*options, *settings.sbatch]


def _script(request: Request, name: str) -> Path:
    return request.directory / "code" / "slurm" / f"{name}.sbatch"
