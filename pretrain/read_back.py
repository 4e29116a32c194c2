"""How all ranks together read a checkpoint and hash it: its files are dealt out, and rank 0 compares.

One rank alone would take a second or more for every gigabyte, while the others wait.
"""

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from conf.exits import CorruptError
from pretrain.distributed import World
from pretrain.storage.recovery import digests


def shared(ask: Callable[[str], list[str]], path: Path, names: Sequence[str]) -> Mapping[str, str]:
    """Return the SHA-256 of these files, each read by one of the ranks that `ask` asks. On rank 0.

    Raises CorruptError or OSError if any of them met it.
    """
    answers = [json.loads(text) for text in ask(json.dumps([str(path), list(names)]))]
    for each in answers:
        if "damage" in each:
            raise CorruptError(each["damage"])
        if "errno" in each:
            raise OSError(each["errno"], each["text"], str(path))
    return {name: sha256 for each in answers for name, sha256 in each["sha256"].items()}


def share(world: World, asked: str, beat: Callable[[], None]) -> str:
    """Return what this rank has to say of its share of the files, as JSON."""
    path, names = json.loads(asked)
    try:
        return json.dumps({"sha256": digests(Path(path), names[world.rank :: world.size], beat)})
    except CorruptError as error:
        return json.dumps({"damage": str(error)})
    except Exception as error:  # whatever it is, rank 0 must hear of it, or it waits for ever
        number = (error.errno if isinstance(error, OSError) else None) or errno.EIO
        return json.dumps({"errno": number, "text": f"rank {world.rank}: {error}"})
