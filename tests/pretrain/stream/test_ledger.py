"""The ledger tells what was consumed, whatever attempts it took."""

import pytest

from pretrain.stream.ledger import Account, Entry, Ledger, account, read


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


def test_a_line_that_a_crash_cut_off_is_passed_over(tmp_path):
    first = Ledger(tmp_path, 0)
    first.write(entry(1))
    first.close()
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"attempt": 0, "st')
    second = Ledger(tmp_path, 1)
    second.write(entry(2))
    second.sync()
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
