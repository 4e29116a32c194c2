"""Which sequences each step consumed, over all attempts: the proof that none was lost or taken twice.

Rank 0 writes one line of `ledger.jsonl` per step. A step that a later attempt takes again replaces the
steps from there on: they were not part of a saved state.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pretrain.storage import durable

NAME = "ledger.jsonl"


class Entry(NamedTuple):
    """What one step of all ranks consumed."""

    step: int  # optimizer steps done with it
    first: int  # number of the first sequence, in the order of training
    sequences: int
    share: int  # of rank 0
    places: str  # SHA-256 of where the sequences of that share lie


class Account(NamedTuple):
    """What a run has consumed, and what is wrong with it."""

    steps: int
    sequences: int
    lost: int  # sequences that were passed over
    duplicated: int  # sequences that were taken twice
    retaken_steps: int  # steps that a later attempt took again
    changed_steps: int  # of those, the ones that consumed something else than the first time


class Ledger:
    """The ledger of one attempt, as it is written."""

    def __init__(self, run_dir: Path, attempt: int) -> None:
        self._file = (run_dir / NAME).open("a", buffering=1)
        self._attempt = attempt
        if self._file.tell() and not _ends_a_line(run_dir / NAME):
            self._file.write("\n")  # what a crash cut off stays a line of its own

    def write(self, entry: Entry) -> None:
        """Add a step."""
        self._file.write(json.dumps({"attempt": self._attempt, **entry._asdict()}) + "\n")

    def sync(self) -> None:
        """Return when the disk has all of it, as before a save that counts on it."""
        durable.sync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read(run_dir: Path) -> list[Entry]:
    """Return all entries, attempt after attempt; a line that a crash cut off is left out.

    The ranks of a node that was cut off may write on for a while after the next attempt has begun.
    """
    entries: list[tuple[int, Entry]] = []
    for line in (run_dir / NAME).read_text().splitlines():
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        entries.append((facts["attempt"], Entry(**{name: facts[name] for name in Entry._fields})))
    return [entry for _, entry in sorted(entries, key=lambda each: each[0])]


def account(entries: Iterable[Entry]) -> Account:
    """Return what the run that these entries tell of has consumed."""
    lineage: dict[int, Entry] = {}
    earlier: dict[int, Entry] = {}
    retaken = changed = 0
    for entry in entries:
        if before := earlier.get(entry.step):
            retaken += 1
            changed += entry[:3] != before[:3] or (
                entry.share == before.share and entry.places != before.places
            )
            lineage = {step: kept for step, kept in lineage.items() if step < entry.step}
        lineage[entry.step] = earlier[entry.step] = entry
    lost = duplicated = expected = 0
    for step in sorted(lineage):
        entry = lineage[step]
        lost += max(0, entry.first - expected)
        duplicated += max(0, expected - entry.first)
        expected = max(expected, entry.first + entry.sequences)
    return Account(len(lineage), expected - lost, lost, duplicated, retaken, changed)


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
