"""The ledger tells what was consumed, whatever attempts it took."""

import errno
import hashlib
import json
import os

import pytest

from pretrain.storage.line_file import LineFile
from pretrain.stream.detours import Detour
from pretrain.stream.ledger import Account, Entry, Ledger, Seal, account, detours, read, records, skipped


def entry(step, first=None, sequences=4, places="x"):
    return Entry(step, 4 * (step - 1) if first is None else first, sequences, 2, places)


def test_a_run_that_was_set_back_has_lost_and_duplicated_nothing():
    steps = [1, 2, 3, 4, 3, 4, 5, 6, 6, 7]
    assert account(map(entry, steps)) == Account(
        7, 28, lost=0, duplicated=0, retaken_steps=3, changed_steps=0
    )


def test_a_step_that_was_passed_over_is_lost():
    assert account([entry(1), entry(2), entry(4)]).lost == 4


def test_a_step_that_begins_too_early_duplicates():
    assert account([entry(1), entry(2, first=2), entry(3)]).duplicated == 2


@pytest.mark.parametrize("other", [entry(2, first=5), entry(2, places="y")])
def test_a_retaken_step_that_consumes_something_else_is_counted(other):
    assert account([entry(1), entry(2), other]).changed_steps == 1


def test_a_detour_is_neither_lost_nor_a_change():
    """Steps 3 and 4 spiked; steps 3 to 5 then took the four batches behind them, also after a resume."""
    before = [entry(1), entry(2), entry(3), entry(4), Detour(8, 16)]
    after = [
        entry(3, first=16),
        entry(4, first=20),
        entry(3, first=16),
        entry(4, first=20),
        entry(5, first=24),
    ]
    assert account(before + after) == Account(
        5, 20, lost=0, duplicated=0, retaken_steps=2, changed_steps=0, passed_over=8
    )


def test_who_does_not_take_a_detour_is_noticed():
    assert account([entry(1), Detour(4, 8), entry(2)]).duplicated == 4
    assert account([entry(1), Detour(4, 8), entry(2, first=12)]).lost == 4


def test_a_detour_is_on_disk_when_it_is_decided_on(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("pretrain.storage.durable.sync", lambda _: synced.append(detours(tmp_path)))
    assert detours(tmp_path) == ()
    ledger = Ledger(tmp_path, 0)
    ledger.write(entry(1))
    ledger.pass_over(Detour(4, 8), step=2, because="a spike")
    ledger.close()
    assert synced == [(Detour(4, 8),)]
    assert read(tmp_path) == [entry(1), Detour(4, 8)]


def test_a_line_that_a_crash_cut_off_is_passed_over(tmp_path):
    first = Ledger(tmp_path, 0)
    first.write(entry(1))
    first.close()
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"attempt": 0, "st')
    second = Ledger(tmp_path, 1)
    second.write(entry(2))
    second.close()
    assert read(tmp_path) == [entry(1), entry(2)]
    second.close()


def test_what_a_replaced_attempt_writes_late_does_not_count(tmp_path):
    old, new = Ledger(tmp_path, 0), Ledger(tmp_path, 1)
    for ledger, step in ((old, 1), (old, 2), (old, 3), (new, 2), (old, 4), (new, 3), (old, 5)):
        ledger.write(entry(step))
    assert [each.step for each in read(tmp_path)] == [1, 2, 3, 4, 5, 2, 3]
    assert account(read(tmp_path)) == Account(3, 12, lost=0, duplicated=0, retaken_steps=2, changed_steps=0)
    old.close()
    new.close()


def test_every_rank_seals_what_it_consumed_since_the_last_seal(tmp_path, world):
    book = Ledger(tmp_path, 3)
    book.write(entry(1, places="a"))
    book.write(entry(2, places="b"))
    book.seal(world)
    book.write(entry(3, places="c"))
    book.seal(world)
    book.close()
    seals = [(attempt, each) for attempt, each in records(tmp_path) if isinstance(each, Seal)]
    hashes = [hashlib.sha256(text).hexdigest() for text in (b"ab", b"c")]
    assert seals == [(3, Seal(2, [hashes[0]])), (3, Seal(3, [hashes[1]]))]


def test_a_ledger_of_an_earlier_version_is_read(tmp_path):
    facts = {"attempt": 0, "step": 1, "first": 0, "sequences": 4, "share": 2, "places": "x"}
    (tmp_path / "ledger.jsonl").write_text(json.dumps(facts) + "\n")
    assert read(tmp_path) == [entry(1)]
    assert skipped(tmp_path) == set()


def test_what_the_disk_refuses_waits_and_a_seal_says_so(tmp_path, world, monkeypatch):
    """As a full disk does it: a part of a line, then nothing, then all again."""
    write, room = os.write, [70]

    def full(descriptor, data):
        if not (taken := min(room[0], len(data))):
            raise OSError(errno.ENOSPC, "no space")
        room[0] -= taken
        return write(descriptor, data[:taken])

    book = Ledger(tmp_path, 0)
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        for step in (1, 2, 3):
            book.write(entry(step, places=str(step)))
        with pytest.raises(OSError, match=r"no space.*ledger\.jsonl"):
            book.seal(world)
    assert read(tmp_path) == [], "the first line is cut off"
    book.write(entry(4, places="4"))
    assert read(tmp_path) == [entry(step, places=str(step)) for step in (1, 2, 3, 4)]
    book.seal(world)
    book.close()
    seals = [each for _, each in records(tmp_path) if isinstance(each, Seal)]
    hashes = [hashlib.sha256(text).hexdigest() for text in (b"123", b"4")]
    assert seals == [Seal(3, [hashes[0]]), Seal(4, [hashes[1]])]


def test_lines_that_a_failed_sync_may_have_dropped_are_written_again_and_count_once(
    tmp_path, world, monkeypatch
):
    book = Ledger(tmp_path, 0)
    with monkeypatch.context() as disk:
        disk.setattr("pretrain.storage.durable.sync", lambda _: os.close(-1))
        book.write(entry(1))
        with pytest.raises(OSError, match=r"ledger\.jsonl"):
            book.seal(world)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(bytes(len(path.read_bytes())))  # the pages were never written
    book.write(entry(2))
    book.seal(world)
    assert account(read(tmp_path)) == Account(2, 8, lost=0, duplicated=0, retaken_steps=0, changed_steps=0)
    with monkeypatch.context() as disk:
        disk.setattr("pretrain.storage.durable.sync", lambda _: os.close(-1))
        book.write(entry(3))
        with pytest.raises(OSError, match=r"ledger\.jsonl"):
            book.seal(world)
    book.close()  # the pages were written
    assert [each for _, each in records(tmp_path) if isinstance(each, Entry)] == [
        entry(1),
        entry(2),
        entry(3),
    ]


def test_a_disk_that_stays_full_for_too_long_ends_the_run(tmp_path, monkeypatch):
    file = LineFile(tmp_path / "lines", most_lines=3)
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
    for line in "abc":
        file.add(line)
    with pytest.raises(OSError, match="no space"):
        file.add("d")
    monkeypatch.undo()
    file.close()
    assert (tmp_path / "lines").read_text() == "a\nb\nc\nd\n"


def test_a_step_that_is_taken_again_with_another_batch_is_no_change():
    steps = [entry(1), entry(2), entry(3), entry(3, first=8, sequences=8), entry(4, first=16, sequences=8)]
    assert account(steps) == Account(4, 24, lost=0, duplicated=0, retaken_steps=1, changed_steps=0)
