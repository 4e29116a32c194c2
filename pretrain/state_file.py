"""What one rank puts into a checkpoint: a copy of its pieces of the state, as one safetensors file.

The file is written tensor by tensor, so that the copy is all the memory that a save needs.
"""

import errno
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
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


def chunks(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Return in pieces the bytes that `safetensors.torch.save` gives for these fp32 tensors of one dimension.

    https://github.com/huggingface/safetensors#format: the header's length in 8 bytes, the header as JSON
    filled up with spaces to a multiple of 8, and the tensors.
    """
    header, end = {}, 0
    for name in sorted(tensors):
        tensor = tensors[name]
        assert tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in sorted(tensors):
        yield tensors[name].numpy().data


def write(directory: Path, tensors: dict[str, Tensor], world: World) -> str:
    """Write this rank's file; return its record as JSON, or what the disk said."""
    name = f"state-{world.rank:05d}-of-{world.size:05d}.safetensors"
    try:
        return json.dumps(asdict(commit.write(directory, name, chunks(tensors))))
    except Exception as error:  # whatever it is, the other ranks must hear of it, or they wait for ever
        number = error.errno if isinstance(error, OSError) else errno.EIO
        return json.dumps({"errno": number, "text": f"rank {world.rank}: {error}"})
