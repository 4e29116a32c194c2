import contextlib
import functools
import gzip
import http.server
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from corpora import as_jsonl, documents, hashes

from conf.exits import ConfigError, DatasetError, Exit
from data_prep import finalize, prepare
from data_prep.remote import list_remote, open_remote, put, size_and_version
from data_prep.sources import CorpusConfig, check_unchanged, list_inputs

SMALL = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1", "workers=1"]
Make = Callable[..., Path]


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """Keep files in memory, by fsspec: it stands in for a bucket."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


def test_folders_globs_and_files_of_a_store_are_listed(store: fsspec.AbstractFileSystem):
    for name in ("b/a.txt", "b/c.md", "b/deep/d.txt.gz", "b/e.txt"):
        store.pipe(f"/{name}", b"x")
    assert listed(list_remote("memory://b")) == {
        f"memory:///b/{name}": False for name in ("a.txt", "c.md", "deep/d.txt.gz", "e.txt")
    }
    assert listed(list_remote("memory://b/*.txt")) == {"memory:///b/a.txt": True, "memory:///b/e.txt": True}
    assert listed(list_remote("memory://b/d*")) == {"memory:///b/deep/d.txt.gz": False}
    assert listed(list_remote("memory://b/c.md")) == {"memory://b/c.md": True}
    assert list_remote("memory://b/none") == []


def listed(found: list[tuple[str, bool]]) -> dict[str, bool]:
    assert len(dict(found)) == len(found)
    return dict(sorted(found))


def test_a_corpus_in_a_store_gives_the_bytes_of_the_same_corpus_on_disk(
    store: fsspec.AbstractFileSystem, make: Make, tmp_path: Path
):
    path = as_jsonl(tmp_path / "a.jsonl", documents(200))
    store.pipe("/bucket/a.jsonl", path.read_bytes())
    expected = hashes(make([path], name="local"))
    output = tmp_path / "remote"
    prepare.main(["corpus=jsonl", "corpus.paths=['memory://bucket/*.jsonl']", f"output={output}", *SMALL])
    finalize.main([f"output={output}", "put=memory://done/data"])
    assert hashes(output) == expected
    assert sorted(store.ls("/done/data", detail=False)) == sorted(f"/done/data/{name}" for name in expected)
    for name in expected:
        assert store.cat(f"/done/data/{name}") == (output / name).read_bytes()
    finalize.main([f"output={output}", "put=memory://done/data"])  # again: nothing to do


def test_the_index_is_put_last_and_never_over_another(
    store: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files = [tmp_path / name for name in ("a.tar", "b.tar", "index.json")]
    for path in files:
        path.write_text(path.name)
    order = []
    whole = type(store).put_file

    def recorded(self: fsspec.AbstractFileSystem, local: str, remote: str, **options: object) -> None:
        order.append(Path(remote).name)
        whole(self, local, remote, **options)

    monkeypatch.setattr(type(store), "put_file", recorded)
    put(files, "memory://there")
    assert order == ["a.tar", "b.tar", "index.json"]
    files[-1].write_text("other")
    with pytest.raises(DatasetError, match="another data set"):
        put(files, "memory://there")


def test_a_file_of_a_store_that_changes_is_noticed(store: fsspec.AbstractFileSystem):
    store.pipe("/bucket/a.txt", b"old")
    (known,) = list_inputs(CorpusConfig(kind="text", paths=["memory://bucket/a.txt"]))
    check_unchanged(known)
    store.pipe("/bucket/a.txt", b"new")
    with pytest.raises(DatasetError, match="changed since"):
        check_unchanged(known)


def test_what_is_not_there_is_one_line(store: fsspec.AbstractFileSystem):
    with pytest.raises(DatasetError, match="memory://bucket/none"):
        list_inputs(CorpusConfig(kind="text", paths=["memory://bucket/none"]))
    for read in (open_remote, size_and_version):
        with pytest.raises(DatasetError, match="cannot be read: FileNotFoundError"):
            read("memory://bucket/none")


def test_a_scheme_that_nothing_opens_is_a_mistake_of_the_user():
    with pytest.raises(ConfigError, match="nosuch://") as caught:
        open_remote("nosuch://bucket/file")
    assert caught.value.code == Exit.CONFIG


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Python's own web server, which tells no ETag."""

    def log_message(self, *_):
        """Say nothing."""


@contextlib.contextmanager
def served(folder: Path, handler: type[QuietHandler]) -> Iterator[str]:
    """Serve a folder; yield the address."""
    request = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), request) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class RangeHandler(QuietHandler):
    """A web server that answers range requests, as those that carry corpora do."""

    def do_GET(self):
        asked = self.headers.get("Range")
        if asked is None:
            super().do_GET()
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        piece = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(piece) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        self.wfile.write(piece)

    def do_HEAD(self):
        size = Path(self.translate_path(self.path)).stat().st_size
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(size))
        self.end_headers()


@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="fsspec needs aiohttp for https://")
def test_a_web_server_is_a_source(make: Make, tmp_path: Path):
    path = as_jsonl(tmp_path / "a.jsonl", documents(100))
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with served(tmp_path, RangeHandler) as address:
        for source, name in ((path, "a.jsonl"), (packed, "b.jsonl.gz?signature=a.b&expires=1")):
            expected = hashes(make([source], name=f"local-{source.name}"))
            output = tmp_path / f"remote-{source.name}"
            prepare.main(["corpus=jsonl", f"corpus.paths=['{address}/{name}']", f"output={output}", *SMALL])
            finalize.main([f"output={output}"])
            assert hashes(output) == expected


@pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="fsspec needs aiohttp for https://")
def test_a_file_of_a_server_without_tags_that_changes_is_noticed(tmp_path: Path):
    (tmp_path / "a.txt").write_text("old")
    os.utime(tmp_path / "a.txt", (1_000_000_000, 1_000_000_000))
    with served(tmp_path, QuietHandler) as address:
        (known,) = list_inputs(CorpusConfig(kind="text", paths=[f"{address}/a.txt"]))
        check_unchanged(known)
        (tmp_path / "a.txt").write_text("new")
        with pytest.raises(DatasetError, match="changed since"):
            check_unchanged(known)


@pytest.mark.parametrize(
    "path", ["file:///etc/passwd", "sftp://host/x", "zip://x::file:///etc", "s3://b/x::file:///y"]
)
def test_no_scheme_is_opened_but_those_of_stores_and_none_in_a_chain(path: str):
    with pytest.raises(ConfigError, match="use s3, gs"):
        open_remote(path)
