"""Which sequences each step consumed, over all attempts: the proof that none was lost or taken twice.

Rank 0 writes one line of `ledger.jsonl` per step. A step that is taken again replaces the steps from
there on: they are not part of the run. A line of its own tells of a detour, and is on disk before
anybody takes it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pretrain.storage import durable
from pretrain.stream.detours import Detour, landed, merged

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
    lost: int  # sequences that were passed over without a word
    duplicated: int  # sequences that were taken twice
    retaken_steps: int  # steps that a later attempt took again
    changed_steps: int  # of those, the ones that consumed something else without a detour
    passed_over: int = 0  # sequences, on purpose


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

    def pass_over(self, detour: Detour, *, step: int, because: str) -> None:
        """Add a detour that was decided on after `step`; return when it is on disk."""
        facts = {"pass_over": list(detour), "step": step, "because": because}
        self._file.write(json.dumps({"attempt": self._attempt, **facts}) + "\n")
        self.sync()

    def sync(self) -> None:
        """Return when the disk has all of it, as before a save that counts on it."""
        durable.sync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def read(run_dir: Path) -> list[Entry | Detour]:
    """Return what is written, attempt after attempt; a line that a crash cut off is left out.

    The ranks of a node that was cut off may write on for a while after the next attempt has begun.
    """
    path = run_dir / NAME
    entries: list[tuple[int, Entry | Detour]] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if "pass_over" in facts:
            entry = Detour(*facts["pass_over"])
        else:
            entry = Entry(**{name: facts[name] for name in Entry._fields})
        entries.append((facts["attempt"], entry))
    return [entry for _, entry in sorted(entries, key=lambda each: each[0])]


def detours(run_dir: Path) -> tuple[Detour, ...]:
    """Return the detours that a run has decided on, in that order."""
    return tuple(each for each in read(run_dir) if isinstance(each, Detour))


def account(entries: Iterable[Entry | Detour]) -> Account:
    """Return what the run that these entries tell of has consumed."""
    lineage: dict[int, Entry] = {}
    earlier: dict[int, Entry] = {}
    passed_over: list[Detour] = []
    retaken = changed = 0
    for entry in entries:
        if isinstance(entry, Detour):  # what was consumed since its begin is to change
            passed_over.append(entry)
            earlier = {step: kept for step, kept in earlier.items() if kept.first < entry.begin}
            continue
        if before := earlier.get(entry.step):
            retaken += 1
            changed += entry[:3] != before[:3] or (
                entry.share == before.share and entry.places != before.places
            )
            lineage = {step: kept for step, kept in lineage.items() if step < entry.step}
        lineage[entry.step] = earlier[entry.step] = entry
    ways = merged(passed_over)
    lost = duplicated = expected = skipped = 0
    for step in sorted(lineage):
        entry, due = lineage[step], landed(expected, ways)
        skipped += due - expected
        lost += max(0, entry.first - due)
        duplicated += max(0, due - entry.first)
        expected = max(due, entry.first + entry.sequences)
    consumed = expected - lost - skipped
    return Account(len(lineage), consumed, lost, duplicated, retaken, changed, skipped)


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"
