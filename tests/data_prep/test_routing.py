import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.routing import Routing, TextHash, hash_of, shuffled


def texts(count: int) -> list[TextHash]:
    return [hash_of(b"%d" % number) for number in range(count)]


def test_the_hash_is_the_start_of_sha256():
    digest = hashlib.sha256(b"text").digest()
    found = hash_of(b"text")
    assert found.high.to_bytes(8, "big") + found.low.to_bytes(8, "big") == digest[:16]


def test_validation_documents_stay_when_the_corpus_grows():
    small, large = Routing(3, 1, 0.1), Routing(40, 4, 0.1)
    held_back = [text for text in texts(5000) if small.bucket(text) >= 3]
    assert 400 < len(held_back) < 600
    assert held_back == [text for text in texts(5000) if large.bucket(text) >= 40]


def test_a_larger_fraction_only_adds_to_validation():
    few, more = Routing(3, 1, 0.1), Routing(3, 1, 0.2)
    assert {t for t in texts(2000) if few.bucket(t) == 3} < {t for t in texts(2000) if more.bucket(t) == 3}


def test_buckets_are_of_about_one_size():
    routing = Routing(8, 2, 0.2)
    sizes = np.bincount([routing.bucket(text) for text in texts(20_000)], minlength=10)
    assert len(sizes) == 10
    assert (np.abs(sizes - 2000) < 250).all()


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.floats(0, 0.999))
def test_every_hash_has_a_bucket(high: int, low: int, fraction: float):
    routing = Routing(7, 3, fraction)
    assert 0 <= routing.bucket(TextHash(high, low)) < routing.buckets


def test_no_document_is_held_back_when_the_fraction_is_zero():
    routing = Routing(4, 0, 0.0)
    assert max(routing.bucket(text) for text in texts(1000)) == 3
    assert routing.bucket(TextHash(0, 2**64 - 1)) == 3


@given(st.permutations(range(30)), st.integers(0, 2**70))
def test_the_order_depends_on_the_documents_and_the_seed_alone(arrival: list[int], seed: int):
    high = np.array([text.high for text in texts(30)], np.uint64)
    low = np.array([text.low for text in texts(30)], np.uint64)
    expected = high[shuffled(high, low, seed)]
    assert (high[arrival][shuffled(high[arrival], low[arrival], seed)] == expected).all()


def test_seeds_give_different_orders_and_equal_texts_lie_together():
    high = np.array([text.high for text in texts(50)] * 2, np.uint64)
    low = np.array([text.low for text in texts(50)] * 2, np.uint64)
    orders = [high[shuffled(high, low, seed)] for seed in (0, 1)]
    assert (orders[0] != orders[1]).any()
    assert (orders[0][::2] == orders[0][1::2]).all()


def test_the_order_is_pinned():
    # Another order means that every data set made before has other bytes: raise FORMAT in shards.py.
    high = np.array([text.high for text in texts(8)], np.uint64)
    low = np.array([text.low for text in texts(8)], np.uint64)
    assert shuffled(high, low, 0).tolist() == [5, 1, 2, 0, 3, 4, 6, 7]
