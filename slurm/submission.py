"""What a command line asks to be submitted: the jobs, and the settings of each run, all of them checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from conf import compose, override_key, typed
from conf.combinations import combinations
from conf.exits import ConfigError
from conf.quoting import quoted, value_of
from data_prep.prepare import PrepareConfig
from data_prep.sources import STANDARD_LIBRARY, absolute
from pretrain import frozen, length
from pretrain.config import TrainConfig
from slurm import sweep
from slurm.chain import Request
from slurm.site import site
from slurm.standing import is_done

_OURS = ("only", "dry_run", "watch", "multirun", "name", "run_dir")


@dataclass(frozen=True)
class SubmitConfig:
    """What to do with a run."""

    run_dir: str | None = None
    only: str | None = None
    dry_run: bool = False
    watch: bool = False
    multirun: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        if self.only not in (None, "prepare", "train"):
            raise ConfigError(f"only={self.only!r} is neither prepare nor train")
        if self.multirun and self.only == "prepare":
            raise ConfigError("--multirun trains, --only prepare does not; leave one of them out")


@dataclass(frozen=True)
class Planned:
    """A run as it will be frozen."""

    directory: Path
    config: TrainConfig
    raw: DictConfig


@dataclass(frozen=True)
class Submission:
    """A request, and the runs that its jobs are to train."""

    request: Request
    runs: tuple[Planned, ...]
    corpus: PrepareConfig | None  # None prepares nothing


def composed(overrides: Sequence[str]) -> DictConfig:
    """Return all settings that the command takes, as they stand before anything is checked or worked out."""
    ours, prepare, train = _sorted(overrides)
    shown = OmegaConf.to_container(compose("submit", ours))
    of_jobs = OmegaConf.to_container(compose("train", train))
    assert isinstance(shown, dict)
    assert isinstance(of_jobs, dict)
    return OmegaConf.create({**of_jobs, **shown, "prepare": compose("prepare", prepare)})


def settled(overrides: Sequence[str]) -> tuple[SubmitConfig, Submission]:
    """Return what the command line asks for, all settings checked."""
    ours, prepare, train = _sorted(overrides)
    command = typed(SubmitConfig, compose("submit", ours))
    if command.run_dir is None and command.only != "prepare":
        raise ConfigError("run_dir has no value; add run_dir=DIRECTORY to the command")
    run_dir = Path(command.run_dir).expanduser().resolve() if command.run_dir else None
    output = _output(prepare, train, run_dir, command)
    # Whatever is wrong with the corpus is told now, not by sixteen jobs tonight.
    corpus = (
        typed(PrepareConfig, compose("prepare", [*prepare, f"output={quoted(output)}"])) if output else None
    )
    index = [f"data.index={quoted(output / 'index.json')}"] if output else []
    planned: dict[int | None, Planned] = {}
    if run_dir and command.only != "prepare":
        planned = _planned(run_dir, [*train, *index], multirun=command.multirun)
    directory = run_dir / "slurm" if run_dir else Path(f"{output}.jobs")
    tasks = _tasks(planned)
    request = Request(
        directory=directory,
        site=site(_cluster(planned, train)),
        name=command.name or (run_dir or directory).name.replace(" ", "-"),
        run_dir=run_dir if planned else None,
        output=output,
        prepare=(*prepare, *(_located(corpus) if corpus else ())),
        tasks=tasks,
    )
    return command, Submission(request, tuple(planned[each] for each in tasks or planned), corpus)


def _sorted(overrides: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the settings of this command, of data_prep.prepare and of the trainer."""
    ours, prepare, train = [], [], []
    for override in overrides:
        key = override_key(override)
        sign = override[: len(override) - len(override.lstrip("+~"))]
        if key.startswith("prepare."):
            prepare.append(sign + override.lstrip("+~").removeprefix("prepare."))
        elif key in _OURS:
            ours.append(override)
        else:
            train.append(override)
    return ours, prepare, train


def _output(
    prepare: list[str], train: Sequence[str], run_dir: Path | None, command: SubmitConfig
) -> Path | None:
    """Return where the data set is to be prepared, taken out of `prepare`; None if it is there already."""
    if (not prepare and command.only != "prepare") or command.only == "train":
        return None
    output, index = value_of("output", prepare), value_of("data.index", train)
    prepare[:] = [each for each in prepare if override_key(each) != "output"]
    if output:
        folder = Path(output)
    elif index:
        folder = Path(index).parent
    elif run_dir:
        folder = run_dir / "data"
    else:
        raise ConfigError("prepare.output has no value; add prepare.output=DIRECTORY to the command")
    return folder.expanduser().resolve()


def _located(config: PrepareConfig) -> list[str]:
    """Return the settings of data_prep.prepare whose paths are relative, as the jobs run elsewhere."""
    corpus = config.corpus
    found = []
    paths = [path if path == STANDARD_LIBRARY else absolute(path) for path in corpus.paths]
    if paths != list(corpus.paths):
        found.append(f"corpus.paths=[{','.join(map(quoted, paths))}]")
    named = {"corpus.checksums": corpus.checksums} if corpus.checksums else {}
    named |= {f"decontamination.sets.{name}": path for name, path in config.decontamination.sets.items()}
    there = {name: absolute(path) for name, path in named.items()}
    return [*found, *(f"{name}={quoted(there[name])}" for name, path in named.items() if there[name] != path)]


def _planned(run_dir: Path, train: Sequence[str], *, multirun: bool) -> dict[int | None, Planned]:
    """Return the runs by their number in the sweep; a single run, under None, if there is no sweep."""
    known = sweep.runs(run_dir)
    if not multirun and not known:
        return {None: _run(run_dir, train)}
    if not multirun:
        return {number: _run(path, train) for number, path in known.items()}
    fixed, each = combinations(train)
    names = [sweep.directory_name(number, settings) for number, settings in enumerate(each)]
    if known and [path.name for path in known.values()] != names[: len(known)]:
        raise ConfigError(
            f"{run_dir} holds another sweep, of {len(known)} runs; give the same values in the same order, "
            "or choose another run_dir"
        )
    return {
        number: _run(run_dir / names[number], [*_grouped(run_dir, fixed), *settings])
        for number, settings in enumerate(each)
    }


def _run(run_dir: Path, settings: Sequence[str]) -> Planned:
    asked = {override_key(each).partition(".")[0] for each in settings}
    if asked <= {"cluster"} and not (run_dir / frozen.CONFIG).exists():
        raise ConfigError(
            f"{run_dir} holds no run to go on with; to begin one, add experiment=NAME and data.index=… or "
            "prepare.corpus=…"
        )
    raw = frozen.settled([*settings, f"run_dir={quoted(run_dir)}"])
    length.settle(raw)
    config = typed(TrainConfig, raw)
    for part, index in zip(raw.data.get("mix") or [raw.data], config.data.indices, strict=False):
        part.index = index if "://" in index else str(Path(index).expanduser().resolve())
    return Planned(run_dir, config, raw)


def _grouped(run_dir: Path, settings: list[str]) -> list[str]:
    """Return the settings with which W&B shows a sweep's runs as one group."""
    given = any(override_key(each) == "tracking.group" for each in settings)
    return settings if given else [*settings, f"tracking.group={quoted(Path(run_dir.name))}"]


def _cluster(planned: dict[int | None, Planned], train: Sequence[str]) -> DictConfig:
    """Return the cluster's settings, which all tasks of an array share."""
    known = [each.raw.cluster for each in planned.values()]
    first, *others = known or [compose("train", [*train, "run_dir=none"]).cluster]
    if any(other != first for other in others):
        raise ConfigError("a sweep is one array of equal jobs: no setting of cluster can take several values")
    if OmegaConf.select(first, "slurm") is None:
        raise ConfigError(
            f"cluster={first.name} says nothing of SLURM; add cluster=slurm, or a file of your own in "
            "conf/cluster/ that builds on it"
        )
    return first


def _tasks(planned: dict[int | None, Planned]) -> tuple[int, ...]:
    """Return the numbers of a sweep's runs that have steps to train; all of them if none has."""
    numbers = tuple(number for number in planned if number is not None)
    left = tuple(number for number in numbers if not is_done(planned[number].directory, planned[number].raw))
    return left or numbers
