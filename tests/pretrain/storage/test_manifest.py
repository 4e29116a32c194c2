"""A manifest has one encoding, and holds nothing that JSON does not."""

import json

import pytest

from conf.exits import CorruptError, RefusedError
from pretrain.storage import commit, manifest

RUN = {"run_id": "run", "config_sha256": "c" * 64, "dataset_fingerprint": "d" * 64}


def test_a_manifest_has_one_encoding_only():
    record = commit.FileRecord("a", 1, "0" * 64)
    stated = commit.Manifest(step=1, world_size=1, nonce="n", files=(record,), facts={"a": [1, 2.5]}, **RUN)
    data = manifest.encode(stated)
    assert manifest.decode(data) == stated
    for other in (data + b" ", data.replace(b'"a"', b'"\\u0061"'), json.dumps(json.loads(data)).encode()):
        with pytest.raises(CorruptError):
            manifest.decode(other)


@pytest.mark.parametrize("facts", [{"a": float("nan")}, {"a": b"x"}, {"a": {1: 2, "1": 3}}])
def test_facts_that_are_not_json_are_refused_before_they_are_written(facts):
    stated = commit.Manifest(step=1, world_size=1, nonce="n", files=(), facts=facts, **RUN)
    with pytest.raises(RefusedError):
        manifest.encode(stated)
