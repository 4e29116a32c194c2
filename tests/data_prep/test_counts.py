from data_prep.counts import Counts, Drop, counts_of, total


def test_totals_balance_and_survive_json():
    first, second = Counts(), Counts()
    first.keep(10, 3)
    first.drop(Drop.EMPTY)
    second.drop(Drop.TOO_LONG)
    second.drop(Drop.EMPTY)
    whole = total([first, second])
    assert (whole.read, whole.kept, whole.text_bytes, whole.tokens) == (4, 1, 10, 3)
    assert whole.balanced
    assert counts_of(whole.record()) == whole
    assert whole.summary() == "4 documents read, 1 kept, 2 dropped (empty), 1 dropped (too_long)"


def test_a_lost_document_is_noticed():
    assert not Counts(read=2, kept=1).balanced
