"""The model that a run directory holds: the weights of its newest valid checkpoint, on one device."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from conf.exits import NoCheckpointError
from pretrain import frozen
from pretrain.checkpoint import DIRECTORY
from pretrain.config import TrainConfig
from pretrain.model import GPT
from pretrain.pieces import saved_weights
from pretrain.storage import commit


@dataclass(frozen=True)
class Trained:
    """A model as it stood after `step` steps, ready to be asked."""

    model: GPT  # fp32, in evaluation mode
    config: TrainConfig
    identity: frozen.Identity
    step: int
    tokens: int
    device: torch.device


def load(run_dir: Path) -> Trained:
    """Return the model of the newest valid checkpoint of `run_dir`, on a GPU if there is one.

    Nothing on disk changes. Raises ConfigError if `run_dir` is no run, NoCheckpointError if it has no
    valid checkpoint.
    """
    config, identity = frozen.begun(run_dir)
    found = commit.newest_valid(
        run_dir / DIRECTORY,
        **identity.borne,
        repair=False,
        on_rejected=lambda path, why: print(f"passed over {path.name}: {why}", file=sys.stderr),
    )
    if found is None:
        raise NoCheckpointError(
            f"{run_dir} holds no checkpoint yet; train until checkpoint.every={config.checkpoint.every}"
        )
    with torch.device("meta"):
        model = GPT(config.model, end_of_text=config.end_of_text)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    model.load_state_dict(saved_weights(found.path, shapes), assign=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = int(found.manifest.facts["progress"]["tokens"])
    return Trained(model.to(device).eval(), config, identity, found.step, tokens, device)
