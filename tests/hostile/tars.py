"""Hostile tar files in the place of a shard: members with names, types and sizes that deceive."""

import io
import tarfile
from collections.abc import Iterator

BLOCK = 512
_NAMES = (
    *(
        "../evil",
        "../../../../tmp/evil",
        "/tmp/evil",
        "/etc/passwd",
        "a/../../evil",
        "./../evil",
        "..",
        ".",
        "",
    ),
    *("a\0b", "a\nb", "\x1b[2J", "\x1b]0;evil\x07", "é" * 30, "a b", "a\\..\\evil", "C:\\evil", "~/evil"),
    *(
        "$HOME/evil",
        "`touch evil`",
        "$(touch evil)",
        "|touch evil",
        "-rf",
        "--checkpoint-action=exec=sh",
        "%s%n",
    ),
    *("CON", "x" * 99, "y/" * 49, "000000000.pkl", "000000000.pth", "000000000.pyd", "000000000.npy.pkl"),
    *("../000000000.npy", "/000000000.npy", "000000000.npy/../../evil", "\u202egpj.evil", "\ufeffevil"),
)
_TYPES = {
    "a symbolic link": tarfile.SYMTYPE,
    "a hard link": tarfile.LNKTYPE,
    "a character device": tarfile.CHRTYPE,
    "a block device": tarfile.BLKTYPE,
    "a pipe": tarfile.FIFOTYPE,
    "a directory": tarfile.DIRTYPE,
    "a sparse file": tarfile.GNUTYPE_SPARSE,
    "a contiguous file": tarfile.CONTTYPE,
    "an unknown type": b"Z",
}
_TARGETS = ("/etc/passwd", "../../../../tmp/evil", "/proc/self/environ")
_PAX = {
    "path": "../../evil",
    "linkpath": "/etc/passwd",
    "size": "99999999999",
    "GNU.sparse.name": "../evil",
    "GNU.sparse.realsize": "999999999999",
    "hdrcharset": "BINARY",
    "mtime": "1e999",
    "uid": "-1",
}


def tars() -> Iterator[tuple[str, bytes]]:
    """Yield tar files whose first members are hostile."""
    for name in _NAMES:
        yield f"the name {name[:24]!r}", _tar(_member(name))
    for what, kind in _TYPES.items():
        yield what, _tar(_member("000000000.npy", kind=kind, target=_TARGETS[0]))
    for target in _TARGETS:
        link = _member("000000000.npy", kind=tarfile.SYMTYPE, target=target)
        yield f"a link to {target}, then a file of its name", _tar(link + _member("000000000.npy"))
    for key, value in _PAX.items():
        yield f"a PAX header {key}={value[:12]}", _pax({key: value})
    header = _member("000000000.npy")
    yield "a size of 8 GiB", _tar(_patched(header, 124, b"77777777777\0"))
    yield "a negative size", _tar(_patched(header, 124, b"\xff" * 12))
    yield "a size of letters", _tar(_patched(header, 124, b"eeeeeeeeeee\0"))
    yield "a wrong checksum", _tar(header[:148] + b"0000000\0" + header[156:])
    yield "the same member a thousand times", _tar(header * 1000)
    yield "no end", header
    yield "half a header", header[:300]
    yield "nothing but zeros", bytes(1 << 16)


def _member(name: str, *, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    content = b"evil" if kind in (tarfile.REGTYPE, tarfile.CONTTYPE) else b""
    info = tarfile.TarInfo()
    info.name, info.type, info.linkname, info.size = name, kind, target, len(content)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + content.ljust(
        -(-len(content) // BLOCK) * BLOCK, b"\0"
    )


def _tar(members: bytes) -> bytes:
    return members + bytes(2 * BLOCK)


def _pax(headers: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("000000000.npy")
        info.size, info.pax_headers = 4, headers
        archive.addfile(info, io.BytesIO(b"evil"))
    return packed.getvalue()


def _patched(header: bytes, at: int, value: bytes) -> bytes:
    """Return a header with `value` at a place, and a checksum that says it was always so."""
    changed = bytearray(header)
    changed[at : at + len(value)] = value
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:BLOCK])
    return bytes(changed)
