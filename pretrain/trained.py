"""The model that a run directory holds: the weights of its newest valid checkpoint, on one device."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from conf.exits import ConfigError, CorruptError, NoCheckpointError
from pretrain import frozen, imported
from pretrain.checkpoint import DIRECTORY
from pretrain.config import TrainConfig
from pretrain.model import GPT, GPTConfig
from pretrain.pieces import saved_weights
from pretrain.storage import commit
from pretrain.storage.manifest import step_name, step_of

EVALUATIONS = "evaluations.jsonl"  # in a run directory: what pretrain.evaluate has found


@dataclass(frozen=True)
class Trained:
    """A model as it stood after `step` steps, ready to be asked."""

    model: GPT  # fp32, in evaluation mode
    config: TrainConfig
    identity: frozen.Identity
    step: int
    tokens: int
    device: torch.device


def chosen(*, run_dir: str | None, hf: str | None, checkpoint: str) -> tuple[GPT, Trained | None]:
    """Return the model that a command is about, and its run, if it is one of a run.

    Raises ConfigError unless just one of `run_dir` and `hf` (a Hugging Face folder) is given; and as `load`
    and `imported.load` do.
    """
    check_named(run_dir=run_dir, hf=hf)
    if hf is not None:
        return imported.load(Path(hf), _device()), None
    run = load(Path(str(run_dir)), checkpoint)
    return run.model, run


def check_named(*, run_dir: str | None, hf: str | None) -> None:
    """Raise ConfigError unless just one of the two is given, and `run_dir` is a run."""
    if (run_dir is None) == (hf is None):
        raise ConfigError("give run_dir=RUN, or hf=FOLDER for a Hugging Face model")
    if run_dir is not None:
        frozen.begun(Path(run_dir))


def load(run_dir: Path, checkpoint: str = "newest") -> Trained:
    """Return the model of a valid checkpoint of `run_dir`, on a GPU if there is one.

    `checkpoint` is "newest", "best" (by validation loss, where the run keeps it) or a step. Nothing on
    disk changes. Raises ConfigError if `run_dir` is no run, NoCheckpointError if it has no such
    checkpoint.
    """
    config, identity = frozen.begun(run_dir)
    found = _newest(run_dir, config, identity)
    if checkpoint != "newest":
        found = _at(run_dir, _step(checkpoint, found), identity)
    with torch.device("meta"):
        model = GPT(config.model, end_of_text=config.end_of_text)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    model.load_state_dict(saved_weights(found.path, shapes), assign=True)
    device = _device()
    tokens = int(found.manifest.facts["progress"]["tokens"])
    return Trained(model.to(device).eval(), config, identity, found.step, tokens, device)


def initial_weights(source: Path, config: GPTConfig) -> dict[str, Tensor]:
    """Return the weights with which a run of this shape begins: a run's newest, or a folder's."""
    if frozen.is_run(source):
        return {name: each.detach().cpu() for name, each in load(source).model.named_parameters()}
    return imported.weights(source, config)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _newest(run_dir: Path, config: TrainConfig, identity: frozen.Identity) -> commit.Checkpoint:
    found = commit.newest_valid(
        run_dir / DIRECTORY,
        run_id=identity.run_id,
        config_sha256=identity.config_sha256,
        dataset_fingerprint=identity.dataset_fingerprint,
        repair=False,
        on_rejected=lambda path, why: print(f"passed over {path.name}: {why}", file=sys.stderr),
    )
    if found is None:
        raise NoCheckpointError(
            f"{run_dir} holds no checkpoint yet; train until checkpoint.every={config.checkpoint.every}"
        )
    return found


def _step(checkpoint: str, newest: commit.Checkpoint) -> int:
    """Return the step that the user means."""
    if checkpoint.isdigit():
        return int(checkpoint)
    best = newest.manifest.facts["progress"].get("best_step")
    if checkpoint != "best":
        raise ConfigError(f"checkpoint '{checkpoint}' is not newest, best or a step")
    if best is None:
        raise NoCheckpointError(
            "checkpoint=best, but the run has not kept its best; train with checkpoint.keep_best=true"
        )
    return int(best)


def _at(run_dir: Path, step: int, identity: frozen.Identity) -> commit.Checkpoint:
    path = run_dir / DIRECTORY / step_name(step)
    if not path.is_dir():
        held = ", ".join(str(step_of(each.name)) for each in commit.checkpoints(run_dir / DIRECTORY))
        raise NoCheckpointError(f"{run_dir} holds no checkpoint of step {step}; it holds those of {held}")
    manifest = commit.verify(path)
    if manifest.run_id != identity.run_id:
        raise CorruptError(f"{path} belongs to run {manifest.run_id}, this is {identity.run_id}")
    return commit.Checkpoint(path, manifest)
