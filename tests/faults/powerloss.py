"""What a disk may hold after a power cut, worked out from the operations that a job really made.

The model is that of POSIX and no kinder. What was synced stays. Of the entries of a directory that
were not, any leading part may be there (or, with `reordered`, any subset that can be applied); of the
bytes of a file, none, half, half and then zeros, all, or zeros at full length. What befalls one file
or directory says nothing of another.
"""

import hashlib
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from faults.shim import Operation

# Above this many unsynced entries of one directory, only leading parts are tried: 2**n grows fast.
_MOST_SUBSETS_OF = 6
Tree = dict[str, Any]  # name → bytes of a file, or the Tree of a directory


class Disk:
    """What is certain and what is pending after a number of operations."""

    def __init__(self) -> None:
        self.entries: dict[int, dict[str, int]] = {0: {}}  # of directories, certain
        self.data: dict[int, bytes] = {}  # of files, certain
        self.pending: dict[int, list[Operation]] = {0: []}

    def apply(self, operation: Operation) -> None:
        what, node = operation[0], operation[1]
        if what == "fsync":
            if node in self.data:
                self.data[node] += b"".join(each[2] for each in self.pending[node])
            else:
                self.entries[node] = self._entries(node, self.pending[node])
            self.pending[node] = []
            return
        if what == "link":
            new = operation[3]
            self.pending[new] = []
            if operation[4] == "file":
                self.data[new] = b""
            else:
                self.entries[new] = {}
        self.pending[node].append(operation)

    def states(self, *, reordered: bool) -> Iterator[Tree]:
        """Yield every tree that may be found after the power comes back."""
        uncertain = sorted(node for node in self._reachable() if self.pending[node])
        choices = [list(self._choices(node, reordered)) for node in uncertain]
        for chosen in itertools.product(*choices):
            yield self._tree(0, dict(zip(uncertain, chosen, strict=True)))

    def _reachable(self) -> set[int]:
        """Return every node that some state contains: deleted ones would only repeat states."""
        reached, todo = set(), [0]
        while todo:
            node = todo.pop()
            reached.add(node)
            if node in self.entries:
                linked = (each[3] for each in self.pending[node] if each[0] == "link")
                todo += {*self.entries[node].values(), *linked} - reached
        return reached

    def _choices(self, node: int, reordered: bool) -> Iterator[Any]:
        operations = self.pending[node]
        if node in self.data:
            data = b"".join(operation[2] for operation in operations)
            half = len(data) // 2
            yield from {b"", data[:half], data[:half] + bytes(len(data) - half), data, bytes(len(data))}
        elif reordered and len(operations) <= _MOST_SUBSETS_OF:
            for count in range(len(operations) + 1):
                yield from itertools.combinations(operations, count)
        else:
            yield from (operations[:count] for count in range(len(operations) + 1))

    def _entries(self, node: int, operations: Iterable[Operation]) -> dict[str, int]:
        entries = dict(self.entries[node])
        for operation in operations:
            if operation[0] == "link":
                entries[operation[2]] = operation[3]
            elif operation[0] == "unlink":
                entries.pop(operation[2], None)
            elif operation[2] in entries and entries.get(operation[3]) not in self.entries:
                # A rename replaces a file; a directory, here never empty, is not replaced.
                entries[operation[3]] = entries.pop(operation[2])
        return entries

    def _tree(self, node: int, chosen: dict[int, Any]) -> Tree:
        entries = self._entries(node, chosen.get(node, ()))
        return {
            name: self._tree(entry, chosen)
            if entry in self.entries
            else self.data[entry] + chosen.get(entry, b"")
            for name, entry in entries.items()
        }


def interleaved(log: Sequence[Operation], seed: int) -> list[Operation]:
    """Return `log` with the ranks' parts of each save mixed as concurrent ranks might run them.

    The parts lie between the marks "rank 0 begins" … "ranks end"; order within a rank is kept.
    """
    draw = random.Random(seed)
    result: list[Operation] = []
    parts: list[list[Operation]] | None = None
    for operation in log:
        text = operation[1] if operation[0] == "mark" else ""
        if text.endswith("begins"):
            parts = [*(parts or []), []]
        elif text == "ranks end":
            while parts:
                result.append(draw.choice(parts).pop(0))
                parts = [part for part in parts if part]
            parts = None
        elif parts is not None:
            parts[-1].append(operation)
        else:
            result.append(operation)
    return result


def fingerprint(tree: Tree) -> bytes:
    """Return a short name for the content of a tree."""
    digest = hashlib.sha256()
    for name in sorted(tree):
        content = tree[name]
        inner = fingerprint(content) if isinstance(content, dict) else hashlib.sha256(content).digest()
        digest.update(b"%s\0%d" % (name.encode(), isinstance(content, dict)) + inner)
    return digest.digest()


def put(tree: Tree, path: Path) -> None:
    """Make `path` hold the tree."""
    path.mkdir(0o700)
    for name, content in tree.items():
        if isinstance(content, dict):
            put(content, path / name)
        else:
            (path / name).write_bytes(content)
