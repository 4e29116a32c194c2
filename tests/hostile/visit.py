"""Open hostile artefacts as the product does, and print what each came to, one line of JSON for each.

    visit.py DIRECTORY      everything happens in there

An audit hook sees every attempt of this process to run a program, to unpickle, to reach the network, or
to change a file outside. What the product says of an artefact must be one of its own errors.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from omegaconf import OmegaConf
from peak_memory import peak_kibibytes

from conf import typed
from conf.exits import UserError
from data_prep.documents import Piece, read_documents
from data_prep.index import Index, read_index
from data_prep.shards import DIGEST, Shard, block_digest, digest_of_table, read_block
from data_prep.sources import CorpusConfig, list_inputs
from data_prep.verify import verify_shard
from hostile import bombs, states, tars, texts
from pretrain import frozen
from pretrain.config import TrainConfig
from pretrain.pieces import saved_weights

FORBIDDEN = (
    *(
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "os.fork",
        "os.forkpty",
        "subprocess.Popen",
        "pty.spawn",
    ),
    *(
        "pickle.find_class",
        "marshal.loads",
        "ctypes.dlopen",
        "socket.connect",
        "socket.getaddrinfo",
        "urllib.Request",
    ),
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.truncate",
)
_LIMIT_BYTES = 1 << 20  # of a document
Case = tuple[str, str, Callable[[], object]]


def main(root: Path) -> None:
    """Visit all artefacts."""
    work = root / "work"
    work.mkdir()
    os.chdir(work)
    prepare(work)
    seen: list[str] = []
    watching = [False]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching[0] and is_forbidden(event, arguments, root):
            seen.append(f"{event} {str(arguments)[:200]}")

    sys.addaudithook(hook)
    for kind, name, act in cases(root):
        seen.clear()
        watching[0] = True
        try:
            act()
            said = "nothing"
        except UserError as error:
            said = type(error).__name__
        except BaseException as error:  # whatever else it is, the test must hear of it
            said = f"untyped: {type(error).__name__}: {str(error)[:200]}"
        watching[0] = False
        print(json.dumps({"kind": kind, "name": name, "said": said, "seen": list(seen)}), flush=True)
    print(json.dumps({"kind": "memory", "mebibytes": peak_kibibytes() / 1024}))


def prepare(work: Path) -> None:
    """Have everything imported and composed once before the hook looks."""
    frozen.settled([f"run_dir={work / 'none'}", "steps=1", "experiment=smoke", "data.index=x"])
    with contextlib.suppress(UserError):
        list_inputs(CorpusConfig(kind="jsonl", paths=["memory://none"]))


def is_forbidden(event: str, arguments: tuple[object, ...], root: Path) -> bool:
    """Say whether an audit event tells of something that no artefact may bring about."""
    if event in FORBIDDEN:
        return True
    if event == "open":
        path, _, flags = (*arguments, None, None)[:3]
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        secret = isinstance(path, str) and path.startswith(("/etc/passwd", "/proc/self/environ"))
        return secret or bool(writes and isinstance(path, str) and is_outside(path, root))
    return event in _CHANGES and isinstance(arguments[0], str) and is_outside(arguments[0], root)


def is_outside(path: str, root: Path) -> bool:
    """Say whether a path leads out of `root`; temporary files and caches of bytecode are no harm."""
    real = os.path.realpath(path)
    return not real.startswith((str(root), "/dev/null")) and "__pycache__" not in real


def cases(root: Path) -> Iterator[Case]:
    """Yield (kind, name, what the product does with it)."""
    for kind, found in (("pickle", states.pickles()), ("safetensors", states.lies())):
        for name, data in found:
            yield kind, name, partial(open_state, root, data)
    for name, data in tars.tars():
        yield "tar", name, partial(open_shard, root, data)
    for address in texts.ADDRESSES:
        yield "address", address, partial(list_inputs, CorpusConfig(kind="jsonl", paths=[address]))
    for text in texts.CONFIGS:
        yield "settings", text, partial(open_config, root, text)
    for override in texts.OVERRIDES:
        yield "settings", override, partial(open_config, root, None, override)
    for name, data in bombs.packed():
        yield "bomb", name, partial(open_corpus, root, name, data)
    for name, data in bombs.indexes():
        yield "bomb", name, partial(open_index, root, data)
    yield "bomb", "a billion laughs", partial(open_config, root, bombs.laughs())
    yield "bomb", "a header of 90 MiB", partial(open_state, root, bombs.header())


def open_state(root: Path, data: bytes) -> None:
    """Load a checkpoint whose manifest vouches for a hostile file: whoever can write it can sign it."""
    (root / states.NAME).write_bytes(data)
    saved_weights(root, {"h.0.attn.c_attn.weight": torch.Size([2])})


def open_shard(root: Path, data: bytes) -> None:
    """Read and verify a hostile shard for which the index vouches."""
    name, tokens, block_tokens = "train-00000.tar", 16, 1024
    facts = {"name": name, "sha256": "0" * 64, "tokens": tokens, "documents": 1, "block_tokens": block_tokens}
    shard = Shard(bytes=1 << 20, digests="", **facts)
    offset = shard.block(0).offset
    data = bytearray(data.ljust(shard.table + DIGEST.itemsize, b"\0"))
    digest = block_digest(data[offset : offset + 2 * tokens + 2]).to_bytes(DIGEST.itemsize, "little")
    data[shard.table : shard.table + DIGEST.itemsize] = digest
    (root / name).write_bytes(data)
    shard = Shard(bytes=len(data), digests=digest_of_table(digest), **facts)
    read_block(root, shard, 0)
    index = Index(str(root), "", "gpt2", "", 50256, block_tokens, {}, "hash")
    verify_shard(index, shard, torch.ones(1 << 16, dtype=torch.int64).numpy())


def open_config(root: Path, text: str | None, *overrides: str) -> None:
    """Go on with a run directory whose config is somebody else's, or begin one with odd overrides."""
    run_dir = root / "run"
    run_dir.mkdir(exist_ok=True)
    (run_dir / frozen.CONFIG).unlink(missing_ok=True)
    if text is not None:
        (run_dir / frozen.CONFIG).write_text(text)
    raw = frozen.settled([f"run_dir={run_dir}", *overrides])
    typed(TrainConfig, raw)
    OmegaConf.to_yaml(raw, resolve=True)


def open_corpus(root: Path, name: str, data: bytes) -> None:
    """Read every document of a compressed file."""
    (root / name).write_bytes(data)
    kind = "text" if name.endswith(".txt.gz") else "jsonl"
    corpus = CorpusConfig(kind=kind, paths=[str(root / name)], errors="drop")
    for _ in read_documents(Piece(str(root / name), 0, 1 << 40), corpus, _LIMIT_BYTES):
        pass


def open_index(root: Path, data: bytes) -> None:
    """Read an index, and the first block that it names."""
    (root / "index.json").write_bytes(data)
    (root / "train-00000.tar").write_bytes(bytes(2048))
    index = read_index(root)
    read_block(root, index.splits["train"].shards[0], 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
