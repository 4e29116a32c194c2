"""What one rank puts into a checkpoint: a copy of its pieces of the state, as one safetensors file."""

import errno
import json
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
from torch import Tensor

from pretrain.distributed import World
from pretrain.engine import Engine
from pretrain.pieces import KINDS, key_of
from pretrain.storage import commit


def copied(engine: Engine) -> dict[str, Tensor]:
    """Return this rank's pieces, copied to the host: training goes on while they are written."""
    return {
        key_of(kind, fragment.name, fragment.start): getattr(fragment, kind).to("cpu", copy=True)
        for fragment in engine.fragments()
        for kind in KINDS
        if len(fragment.weight)
    }


def write(directory: Path, tensors: dict[str, Tensor], world: World) -> str:
    """Write this rank's file; return its record as JSON, or what the disk said."""
    name = f"state-{world.rank:05d}-of-{world.size:05d}.safetensors"
    try:
        return json.dumps(asdict(commit.write(directory, name, [safetensors.torch.save(tensors)])))
    except Exception as error:  # whatever it is, the other ranks must hear of it, or they wait for ever
        number = error.errno if isinstance(error, OSError) else errno.EIO
        return json.dumps({"errno": number, "text": f"rank {world.rank}: {error}"})
