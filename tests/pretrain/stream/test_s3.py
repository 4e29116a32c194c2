"""A real S3 server as the place of the shards: the same batches, by the client library that a run uses."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs
from made_data import T, made, run
from s3_server import served, store_at

from conf.exits import DatasetError
from pretrain.stream.remote import FetchConfig
from pretrain.stream.sources import DataConfig, index_at

BATCH, STEPS = 12, 40
# Moto, which fails now and then as S3 does. It ends when its standard input does.
_SERVER = """
import random, sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
inner, chance = DomainDispatcherApplication(create_backend_app), random.Random(0)
def app(environ, start):
    if environ["REQUEST_METHOD"] == "GET" and environ.get("HTTP_RANGE") and chance.random() < 0.1:
        start("503 Slow Down", [("Content-Length", "0")])
        return [b""]
    return inner(environ, start)
server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served(_SERVER) as port:
        yield port


@pytest.fixture
def bucket(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a data set into s3://shards/web; return the folder that it was made in."""
    folder = made(tmp_path / "data", [[64] * 60, [64] * 20 + [33]]).parent
    store = store_at(port, monkeypatch)
    if not store.exists("shards"):
        store.mkdir("shards")
    for path in folder.iterdir():
        store.put_file(str(path), f"shards/web/{path.name}")
    yield folder
    s3fs.S3FileSystem.clear_instance_cache()


def read(place: str, **fetch: str) -> list[np.ndarray]:
    data = DataConfig(index=place, sequence_tokens=T, fetch=FetchConfig(deadline_seconds=60, **fetch))  # pyright: ignore[reportArgumentType]
    return run(data, BATCH, ranks=1, rank=0, micro=4, steps=STEPS)[0]


def test_batches_of_a_bucket_are_those_of_the_disk_though_requests_fail(bucket: Path, tmp_path: Path):
    expected = read(str(bucket))
    assert index_at("s3://shards/web").fingerprint == index_at(str(bucket)).fingerprint
    for fetch in ({}, {"stage_dir": str(tmp_path / "node")}):
        found = read("s3://shards/web/index.json", **fetch)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_shard_that_the_bucket_lacks_is_named(bucket: Path):
    s3fs.S3FileSystem().rm_file("shards/web/train-00001.tar")
    with pytest.raises(DatasetError, match=r"s3://shards/web/train-00001\.tar is missing"):
        read("s3://shards/web")
    with pytest.raises(DatasetError, match=r"s3://shards/none/index\.json does not exist; make it"):
        index_at("s3://shards/none")
    assert bucket.is_dir()
