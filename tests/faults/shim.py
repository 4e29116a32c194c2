"""A thin layer over `os` that counts, fails, cuts short or records every call that changes the disk.

It needs no ptrace, so these checks run everywhere; the strace sweeps repeat them on the real calls.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

MUTATING = ("open", "write", "fsync", "rename", "mkdir", "unlink", "rmdir", "utime")
# An operation on the modelled disk: ("link", directory, name, node, kind), ("write", node, bytes),
# ("fsync", node), ("rename", directory, old, new), ("unlink", directory, name), ("mark", text).
Operation = tuple[Any, ...]


@dataclass
class Calls:
    """The changing calls made so far, and what to do at each: see `intercepted`."""

    before: Callable[[int, str], int | None]
    names: list[str] = field(default_factory=list)

    def at(self, name: str) -> int | None:
        self.names.append(name)
        return self.before(len(self.names) - 1, name)


@contextmanager
def intercepted(before: Callable[[int, str], int | None]) -> Iterator[Calls]:
    """Call `before(place, name)` ahead of each changing call in this process.

    It may raise, end the process, or return how many bytes a write may write at most.
    """
    calls = Calls(before)
    with mock.patch.multiple(os, **{name: _wrapped(getattr(os, name), name, calls) for name in MUTATING}):
        yield calls


def _wrapped(real: Callable[..., Any], name: str, calls: Calls) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        if name == "open" and not arguments[1] & os.O_CREAT:
            return real(*arguments, **keywords)
        limit = calls.at(name)
        if name == "write" and limit is not None:
            return real(arguments[0], arguments[1][:limit])
        return real(*arguments, **keywords)

    return call


class Recorder:
    """Writes down what was done below one directory, by file and directory rather than by path."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.log: list[Operation] = []
        self.entries: dict[int, dict[str, int]] = {0: {}}
        self.nodes_of: dict[int, int] = {}
        self._next = 1

    def mark(self, text: str) -> None:
        """Note something about the run between two operations."""
        self.log.append(("mark", text))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record every changing call of this process below the base directory."""
        names = ("open", "close", "write", "fsync", "rename", "mkdir", "unlink", "rmdir")
        patches = {name: self._wrapped(getattr(os, name), getattr(self, f"_{name}")) for name in names}
        with mock.patch.multiple(os, **patches):
            yield

    def _wrapped(self, real: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            result = real(*arguments, **keywords)
            note(result, *arguments, **keywords)
            return result

        return call

    def _place(self, path: Any, within: int | None) -> tuple[int, str] | None:
        """Return (directory node, name) for a path, or None outside the base."""
        if within is not None:
            return (self.nodes_of[within], str(path)) if within in self.nodes_of else None
        path = Path(path)
        if path == self.base or not path.is_relative_to(self.base):
            return None
        directory = 0
        *parents, name = path.relative_to(self.base).parts
        for parent in parents:
            directory = self.entries[directory][parent]
        return directory, name

    def _link(self, directory: int, name: str, kind: str) -> int:
        node, self._next = self._next, self._next + 1
        self.entries[directory][name] = node
        if kind == "directory":
            self.entries[node] = {}
        self.log.append(("link", directory, name, node, kind))
        return node

    def _open(
        self, descriptor: int, path: Any, flags: int, mode: int = 0, *, dir_fd: int | None = None
    ) -> None:
        if Path(path) == self.base and dir_fd is None:
            self.nodes_of[descriptor] = 0
        elif place := self._place(path, dir_fd):
            node = self.entries[place[0]].get(place[1])
            self.nodes_of[descriptor] = self._link(*place, "file") if node is None else node

    def _close(self, _: None, descriptor: int) -> None:
        self.nodes_of.pop(descriptor, None)

    def _write(self, count: int, descriptor: int, data: memoryview) -> None:
        if descriptor in self.nodes_of:
            self.log.append(("write", self.nodes_of[descriptor], bytes(data[:count])))

    def _fsync(self, _: None, descriptor: int) -> None:
        if descriptor in self.nodes_of:
            self.log.append(("fsync", self.nodes_of[descriptor]))

    def _rename(self, _: None, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        assert src_dir_fd == dst_dir_fd, "the protocol renames within one directory"
        directory = self.nodes_of[src_dir_fd]
        self.entries[directory][new] = self.entries[directory].pop(old)
        self.log.append(("rename", directory, old, new))

    def _mkdir(self, _: None, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if place := self._place(path, dir_fd):
            self._link(*place, "directory")

    def _unlink(self, _: None, path: Any, *, dir_fd: int | None = None) -> None:
        if place := self._place(path, dir_fd):
            del self.entries[place[0]][place[1]]
            self.log.append(("unlink", *place))

    _rmdir = _unlink
