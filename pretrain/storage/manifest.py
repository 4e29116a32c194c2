"""What a checkpoint says about itself: its manifest, to the byte, and its name.

The bytes are canonical: one manifest has one encoding, and it carries its own SHA-256. So a single
flipped bit anywhere in MANIFEST.json is seen, also where it would still be good JSON.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from conf.exits import CorruptError, RefusedError
from pretrain.storage.durable import checked_name

MANIFEST_NAME = "MANIFEST.json"
LATEST = "latest"  # a hint for people: no program reads it
# About 30,000 files of 130 bytes each; a thousand ranks write a few thousand.
MANIFEST_MOST_BYTES = 4 << 20
FILE_MOST_BYTES = 1 << 40
_MOST_STEP = 10**12
_FORMAT = 1

_STEP_NAME = re.compile(r"step-([0-9]{8,13})")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """One file of a checkpoint, as its writer knew it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything that must hold for a checkpoint to count."""

    step: int
    run_id: str
    world_size: int
    nonce: str  # of the attempt that wrote it; see `begin`
    config_sha256: str
    dataset_fingerprint: str
    files: tuple[FileRecord, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON: versions, ZeRO stage, tokens …
    fence: int = 0  # of the lease under which it was written; see `lease.acquire`


@dataclass(frozen=True)
class Checkpoint:
    """A directory whose every byte agreed with its manifest when this object was made."""

    path: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """The number of optimizer steps that lie behind this state."""
        return self.manifest.step


def step_name(step: int) -> str:
    """Return the directory name of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Return the step that a directory name stands for, or None for any other name."""
    found = _STEP_NAME.fullmatch(name)
    return int(found[1]) if found and step_name(int(found[1])) == name else None


def temporary_name(step: int, nonce: str) -> str:
    """Return the name under which one attempt at `step` is written."""
    return f".tmp-{step_name(step)}-{checked_name(nonce)}"


def encode(manifest: Manifest) -> bytes:
    """Return the one and only encoding of `manifest`.

    Raises RefusedError for a manifest that `decode` would not take back, before it is ever written.
    """
    body = asdict(manifest)
    body["files"] = [asdict(record) for record in sorted(manifest.files, key=lambda record: record.name)]
    try:
        data = _canonical({"format": _FORMAT, "manifest": body, "sha256": _digest(body)})
        decode(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise RefusedError(f"this manifest could not be read back: {error}") from error
    return data


def decode(data: bytes) -> Manifest:
    """Return the manifest that these bytes encode; raise CorruptError for any others."""
    if len(data) > MANIFEST_MOST_BYTES:
        raise CorruptError(f"{MANIFEST_NAME}: longer than {MANIFEST_MOST_BYTES} bytes")
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
        ours = isinstance(document, dict) and set(document) == {"format", "manifest", "sha256"}
        canonical = ours and _canonical(document) == data
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{MANIFEST_NAME}: not JSON ({type(error).__name__})") from error
    if not canonical:
        raise CorruptError(f"{MANIFEST_NAME}: not written by this program, or damaged")
    if document["format"] != _FORMAT:
        raise CorruptError(f"{MANIFEST_NAME}: format {document['format']!r}, this program reads {_FORMAT}")
    if document["sha256"] != _digest(document["manifest"]):
        raise CorruptError(f"{MANIFEST_NAME}: its own SHA-256 does not match")
    return _manifest(document["manifest"])


def _manifest(body: Any) -> Manifest:
    """Return the checked manifest of a decoded body."""
    names = {each.name for each in fields(Manifest)}
    if not isinstance(body, dict) or set(body) != names:
        raise CorruptError(f"{MANIFEST_NAME}: its keys are not {', '.join(sorted(names))}")
    _expect(_is_count(body["step"], _MOST_STEP), "step", body["step"])
    _expect(
        _is_count(body["world_size"], _MOST_STEP) and body["world_size"] > 0, "world_size", body["world_size"]
    )
    _expect(_is_count(body["fence"], 2**63), "fence", body["fence"])
    for key in ("run_id", "nonce", "config_sha256", "dataset_fingerprint"):
        _expect(isinstance(body[key], str), key, body[key])
    _expect(isinstance(body["facts"], dict), "facts", body["facts"])
    _expect(isinstance(body["files"], list), "files", body["files"])
    records = tuple(_record(each) for each in body["files"])
    listed = [record.name for record in records]
    _expect(listed == sorted(set(listed)) and MANIFEST_NAME not in listed, "files", listed[:3])
    return Manifest(**{**body, "files": records})


def _record(body: Any) -> FileRecord:
    if not isinstance(body, dict) or set(body) != {each.name for each in fields(FileRecord)}:
        raise CorruptError(f"{MANIFEST_NAME}: a file record is not {{name, bytes, sha256}}")
    record = FileRecord(**body)
    try:
        checked_name(record.name if isinstance(record.name, str) else "")
    except RefusedError as error:
        raise CorruptError(f"{MANIFEST_NAME}: {error}") from error
    _expect(_is_count(record.bytes, FILE_MOST_BYTES), f"bytes of {record.name}", record.bytes)
    hexadecimal = isinstance(record.sha256, str) and _SHA256.fullmatch(record.sha256)
    _expect(bool(hexadecimal), f"sha256 of {record.name}", record.sha256)
    return record


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most  # a bool is an int, and no count


def _expect(holds: bool, what: str, value: Any) -> None:
    if not holds:
        raise CorruptError(f"{MANIFEST_NAME}: {what} is {str(value)[:80]!r}")


def _canonical(document: Any) -> bytes:
    # Without indent: with it, json falls back to Python code whose cost grows with the depth.
    return (json.dumps(document, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def _digest(body: Any) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
