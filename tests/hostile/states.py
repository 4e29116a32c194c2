"""Hostile files in the place of a saved state: pickles of every kind, and safetensors that lie."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator
from typing import Any

NAME = "state-00000-of-00001.safetensors"
CANARY = "canary-was-here"


class _Calls:
    """Pickles to a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._reduced


def pickles() -> Iterator[tuple[str, bytes]]:
    """Yield pickles that would run code if anything unpickled them, bare and as torch packs them."""
    import os
    import subprocess

    command = f"touch {CANARY}"
    calls: dict[str, Any] = {
        "os.system": _Calls(os.system, command),
        "eval": _Calls(eval, f"open('{CANARY}', 'w')"),
        "exec": _Calls(exec, f"open('{CANARY}', 'w')"),
        "open": _Calls(open, CANARY, "w"),
        "check_output": _Calls(subprocess.check_output, ["touch", CANARY]),
        "os.mkdir": _Calls(os.mkdir, CANARY),
    }
    for name, call in calls.items():
        for protocol in (0, 2, 4, 5):
            yield f"{name}, protocol {protocol}", pickle.dumps(call, protocol)
        yield f"{name}, in a torch archive", _archive(pickle.dumps(call, 2))
    yield "a GLOBAL by hand", f"cos\nsystem\n(S'{command}'\ntR.".encode()
    yield "an INST by hand", f"(S'{command}'\nios\nsystem\n.".encode()
    yield "a nested archive", _archive(_archive(pickle.dumps(calls["open"], 2)))
    yield (
        "torch's old format",
        b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, calls["open"])),
    )


def lies() -> Iterator[tuple[str, bytes]]:
    """Yield safetensors files with a header that claims what the file does not hold."""
    key = "weight/h.0.attn.c_attn.weight@0"
    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    headers: dict[str, Any] = {
        "offsets beyond the file": {key: {**good, "shape": [2000], "data_offsets": [0, 8000]}},
        "offsets that run backwards": {key: {**good, "data_offsets": [8, 0]}},
        "negative offsets": {key: {**good, "data_offsets": [-8, 0]}},
        "a shape of 2**62": {key: {**good, "shape": [2**62]}},
        "a shape whose product overflows": {key: {**good, "shape": [2**33, 2**33]}},
        "an unknown dtype": {key: {**good, "dtype": "PICKLE"}},
        "a shape that does not fit its bytes": {key: {**good, "shape": [3]}},
        "a hole": {key: {**good, "data_offsets": [4, 12]}},
        "two tensors in one place": {key: good, f"{key}1": good},
        "a list for a header": [1, 2],
        "text for a header": "os.system",
        "a key without a place": {"os.system": good},
        "a place that is no number": {"weight/x@__import__": good},
        "no dimension": {key: {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}},
    }
    for name, header in headers.items():
        yield name, _safetensors(json.dumps(header).encode())
    yield "a header of 2**63 bytes", struct.pack("<Q", 2**63) + b"{}"
    yield "a header longer than the file", struct.pack("<Q", 10_000) + b"{}"
    yield "no header", b""
    yield "not JSON", _safetensors(b"\x80\x04")
    yield "JSON of depth 100,000", _safetensors(b"[" * 100_000)
    yield "a header twice", _safetensors(b'{"a":1,"a":2}')


def _safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(12)


def _archive(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return packed.getvalue()
