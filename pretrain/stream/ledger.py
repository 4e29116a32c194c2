"""Which sequences each step consumed, over all attempts: the proof that none was lost or taken twice.

Rank 0 writes one line of `ledger.jsonl` per step, and one at each save, by which every rank seals what
it consumed itself: no state counts before its lines are on disk. Until then a disk that refuses them is
no harm. A step that is taken again replaces the steps from there on: they are not part of the run. A line
of its own tells of a detour, and is on disk before anybody takes it.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.distributed import World, gather_texts, on_primary
from pretrain.storage.line_file import LineFile
from pretrain.stream.detours import Detour, landed, merged
from pretrain.stream.skips import Skip, Skips

NAME = "ledger.jsonl"


class Entry(NamedTuple):
    """What one step of all ranks consumed."""

    step: int  # optimizer steps done with it
    first: int  # number of the first sequence, in the order of training
    sequences: int
    share: int  # of rank 0
    places: str  # SHA-256 of where the sequences of that share lie


class Seal(NamedTuple):
    """What each rank consumed since the last seal of its attempt."""

    sealed: int  # the last step of it
    ranks: list[str]  # of each, the hash over `places` of its own share of those steps; see Chain


class Skipped(NamedTuple):
    """Sequences that were taken out of their batch, because their block is damaged."""

    skipped: list[list]  # as Skip: number, source, block, reason


Record = Entry | Seal | Skipped | Detour


class Chain:
    """The hash over what one rank consumed, step after step."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, places: str) -> None:
        """Take in the `places` of a step."""
        self._hash.update(places.encode())

    def told(self) -> str:
        """Return the hash since it was last told, in hexadecimal."""
        text, self._hash = self._hash.hexdigest(), hashlib.sha256()
        return text


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
    """The ledger of one attempt, as one rank sees it."""

    def __init__(self, run_dir: Path | None, attempt: int, skips: Skips | None = None) -> None:
        """Take the directory on rank 0, which writes; the other ranks pass None."""
        self._file = None if run_dir is None else LineFile(run_dir / NAME)
        self._lines = 0
        self._attempt = attempt
        self._skips = skips or Skips(0)
        self._chain = Chain()
        self._step = 0

    @property
    def pending(self) -> bool:
        """Say whether this rank has skipped something that the others do not know of yet."""
        return self._skips.pending

    def write(self, entry: Entry, skips: Iterable[Skip] = ()) -> None:
        """Add a step, and what this rank skipped in it."""
        self._step = entry.step
        self._chain.add(entry.places)
        self._skips.add(skips)
        self._write(entry._asdict())

    def agree(self, world: World) -> None:
        """Let all ranks know what any has skipped. Collective; raises CorruptError if it is too much."""
        for_record = self._skips.agree(world)
        if for_record:
            self._write(Skipped([list(skip) for skip in for_record])._asdict())

    def seal(self, world: World) -> None:
        """Record what all ranks have consumed; return when the disk has it, as a save needs. Collective.

        Raises OSError on every rank if the disk refuses it; the next seal brings it there.
        """
        if self._skips.budget:
            self.agree(world)
        self._write(Seal(self._step, gather_texts(world, self._chain.told()))._asdict())
        on_primary(world, self._synced)

    def pass_over(self, detour: Detour, *, step: int, because: str) -> None:
        """Add a detour that was decided on after `step`; return when it is on disk. On rank 0."""
        self._write({"pass_over": list(detour), "step": step, "because": because})
        self._synced()

    def close(self) -> None:
        """Let go of the file."""
        if self._file:
            self._file.close()

    def _write(self, facts: dict[str, Any]) -> None:
        if self._file:
            self._file.add(json.dumps({"attempt": self._attempt, "line": self._lines, **facts}))
            self._lines += 1

    def _synced(self) -> str:
        assert self._file is not None, "rank 0 writes the ledger"
        self._file.sync()
        return ""


def read(run_dir: Path) -> list[Entry | Detour]:
    """Return the steps and the detours of all attempts; see `records`."""
    return [record for _, record in records(run_dir) if isinstance(record, Entry | Detour)]


def detours(run_dir: Path) -> tuple[Detour, ...]:
    """Return the detours that a run has decided on, in that order."""
    return tuple(each for each in read(run_dir) if isinstance(each, Detour))


def records(run_dir: Path) -> list[tuple[int, Record]]:
    """Return (attempt, record), attempt after attempt; a line that a crash cut off is left out.

    The ranks of a node that was cut off may write on for a while after the next attempt has begun. A line
    may come twice, after a disk that failed.
    """
    found: dict[tuple[int, int], Record] = {}
    path = run_dir / NAME
    text = path.read_text(errors="replace") if path.exists() else ""
    for place, line in enumerate(text.splitlines()):
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if "pass_over" in facts:
            record = Detour(*facts["pass_over"])
        else:
            kind = next(each for each in (Entry, Seal, Skipped) if each._fields[0] in facts)
            record = kind(**{name: facts[name] for name in kind._fields})
        # Earlier versions did not count their lines, and wrote none twice.
        found[facts["attempt"], facts.get("line", place)] = record
    return [(attempt, found[attempt, line]) for attempt, line in sorted(found)]


def skipped(run_dir: Path) -> set[int]:
    """Return the numbers of all sequences that a run has skipped so far."""
    return {
        int(skip[0]) for _, each in records(run_dir) if isinstance(each, Skipped) for skip in each.skipped
    }


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
            # With another batch it takes something else on purpose.
            changed += entry.sequences == before.sequences and (
                entry.first != before.first or (entry.share == before.share and entry.places != before.places)
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
