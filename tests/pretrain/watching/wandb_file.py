"""What wandb has really put on disk: a reader of its `.wandb` files that shares no code with wandb's writer.

A file is a 7-byte header and LevelDB log blocks of 32 KiB that hold protobuf records. A torn end, as a
killed process leaves it, is where reading stops.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, 7
_FULL, _FIRST, _LAST = 1, 2, 4


@dataclass
class WandbFile:
    """The records of one `.wandb` file, by kind."""

    run_id: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    step_metrics: dict[str, str] = field(default_factory=dict)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    exit_code: int | None = None


def read(path: Path) -> WandbFile:
    """Return what the file, or the run directory that holds it, contains."""
    if path.is_dir():
        (path,) = path.glob("run-*.wandb")
    found = WandbFile()
    for record in _records(path.read_bytes()):
        match record.WhichOneof("record_type"):
            case "run":
                found.run_id, found.project = record.run.run_id, record.run.project
                found.config |= _items(record.run.config.update)
            case "config":
                found.config |= _items(record.config.update)
            case "history":
                found.history.append(_items(record.history.item))
            case "metric":
                name = record.metric.name or record.metric.glob_name
                found.step_metrics[name] = record.metric.step_metric
            case "alert":
                found.alerts.append((record.alert.level, record.alert.title, record.alert.text))
            case "exit":
                found.exit_code = record.exit.exit_code
    return found


def _records(data: bytes) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    identity, magic, version = struct.unpack("<4sHB", data[:7])
    assert (identity, magic, version) == (b":W&B", 0xBEE1, 0)
    position, parts = 7, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:  # zeros fill the end of a block
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[position : position + _HEADER])
        chunk = data[position + _HEADER : position + _HEADER + length]
        if kind == 0 or len(chunk) < length:
            return
        assert zlib.crc32(chunk, zlib.crc32(bytes([kind]))) == checksum, f"checksum at byte {position}"
        position += _HEADER + length
        parts = chunk if kind in {_FULL, _FIRST} else parts + chunk
        if kind in {_FULL, _LAST}:
            yield wandb_internal_pb2.Record.FromString(parts)


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
