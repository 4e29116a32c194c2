"""A real S3 server as the place of the corpus and of the shards."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs
from corpora import as_jsonl, documents, hashes
from s3_server import served, store_at

from conf.exits import DatasetError, Exit
from data_prep import finalize, prepare
from data_prep.sources import CorpusConfig, check_unchanged, list_corpus, list_inputs

Make = Callable[..., Path]
Called = Callable[..., tuple[int, str]]
SMALL = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1", "workers=1"]
# It ends when its standard input does, whatever becomes of the tests.
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with served(_SERVER) as port:
        yield port


@pytest.fixture
def store(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    """Return a store of two empty buckets."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    found = store_at(port, monkeypatch)
    for bucket in ("corpus", "shards"):
        if found.exists(bucket):
            found.rm(bucket, recursive=True)
        found.mkdir(bucket)
    yield found
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_bucket_is_a_corpus_and_another_takes_the_shards(
    store: s3fs.S3FileSystem, make: Make, tmp_path: Path
):
    paths = [as_jsonl(tmp_path / f"{n}.jsonl", documents(150, seed=n)) for n in range(2)]
    expected = hashes(make(paths, name="local"))
    for path in paths:
        store.put_file(str(path), f"corpus/web/{path.name}")
    output = tmp_path / "remote"
    prepare.main(["corpus=jsonl", "corpus.paths=['s3://corpus/web/*.jsonl']", f"output={output}", *SMALL])
    finalize.main([f"output={output}", "put=s3://shards/web"])
    assert hashes(output) == expected
    assert sorted(store.ls("shards/web", detail=False)) == sorted(f"shards/web/{name}" for name in expected)
    for name in expected:
        assert store.cat_file(f"shards/web/{name}") == (output / name).read_bytes()
    finalize.main([f"output={output}", "put=s3://shards/web"])  # again: nothing to do


def test_a_glob_walks_the_folders_that_it_matches(store: s3fs.S3FileSystem, make: Make, tmp_path: Path):
    texts = documents(120)
    expected = hashes(make([as_jsonl(tmp_path / "a.jsonl", texts)], name="local"))
    for number, name in enumerate(("part1/a.jsonl", "part2/deep/b.JSONL", "part3.jsonl")):
        store.put_file(str(as_jsonl(tmp_path / "part", texts[number::3])), f"corpus/web/{name}")
    store.touch("corpus/web/part1/")  # the mark by which some tools keep an empty folder
    store.pipe_file("corpus/web/part2/README.md", b"not of the corpus")
    listing = list_corpus(
        CorpusConfig(kind="jsonl", paths=["s3://corpus/web/part*"], suffixes=[".jsonl", ".ndjson"])
    )
    names = [known.path.removeprefix("s3://corpus/web/") for known in listing.inputs]
    assert names == ["part1/a.jsonl", "part2/deep/b.JSONL", "part3.jsonl"]
    assert listing.left_out == ["s3://corpus/web/part2/README.md"]
    output = tmp_path / "remote"
    prepare.main(["corpus=jsonl", "corpus.paths=['s3://corpus/web/part*']", f"output={output}", *SMALL])
    finalize.main([f"output={output}"])
    assert hashes(output) == expected


def test_an_object_that_is_put_anew_is_noticed(store: s3fs.S3FileSystem):
    store.pipe_file("corpus/a.txt", b"old")
    (known,) = list_inputs(CorpusConfig(kind="text", paths=["s3://corpus/a.txt"]))
    check_unchanged(known)
    store.pipe_file("corpus/a.txt", b"new")
    with pytest.raises(DatasetError, match=r"s3://corpus/a\.txt changed since"):
        check_unchanged(known)


def test_a_put_that_breaks_shows_no_index_and_is_mended_by_the_same_command(
    store: s3fs.S3FileSystem,
    make: Make,
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    exit_line: Called,
):
    output = make([as_jsonl(tmp_path / "a.jsonl", documents(300))])
    shards = len(list(output.glob("*.tar")))
    whole, done = store.put_file, []

    def broken(local: str, remote: str) -> None:
        done.append(remote)
        if len(done) == shards:
            raise ConnectionResetError("the line is cut")
        whole(local, remote)

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_file", broken)  # fsspec hands this very store to the command
        code, line = exit_line("finalize", f"output={output}", "put=s3://shards/broken")
    assert (code, line.count("\n")) == (Exit.DATASET, 1)
    assert "s3://shards/broken cannot be written" in line
    store.invalidate_cache()
    assert not store.exists("shards/broken/index.json")
    assert exit_line("finalize", f"output={output}", "put=s3://shards/broken")[0] == Exit.OK
    assert store.cat_file("shards/broken/index.json") == (output / "index.json").read_bytes()


def test_a_shard_that_went_missing_is_put_again_by_the_same_command(
    store: s3fs.S3FileSystem, make: Make, tmp_path: Path
):
    output = make([as_jsonl(tmp_path / "a.jsonl", documents(300))])
    finalize.main([f"output={output}", "put=s3://shards/mended"])
    names = sorted(path.name for path in output.glob("*.tar"))
    store.rm_file(f"shards/mended/{names[0]}")
    store.pipe_file(f"shards/mended/{names[1]}", b"cut short")
    before = store.info(f"shards/mended/{names[2]}", refresh=True)["LastModified"]
    finalize.main([f"output={output}", "put=s3://shards/mended"])
    for name in [*names, "index.json"]:
        assert store.cat_file(f"shards/mended/{name}") == (output / name).read_bytes()
    assert store.info(f"shards/mended/{names[2]}", refresh=True)["LastModified"] == before


def test_what_the_store_refuses_is_one_line(
    store: s3fs.S3FileSystem, make: Make, tmp_path: Path, *, exit_line: Called
):
    output = make([as_jsonl(tmp_path / "a.jsonl", documents(20))])
    for name, argument, words in (
        ("prepare", "corpus.paths=['s3://corpus/none.jsonl']", "s3://corpus/none.jsonl does not exist"),
        ("prepare", "corpus.paths=['s3://no-such-bucket/*.jsonl']", "s3://no-such-bucket/*.jsonl"),
        ("finalize", "put=s3://no-such-bucket/x", "s3://no-such-bucket/x cannot be written"),
    ):
        place = tmp_path / "new" if name == "prepare" else output
        others = ["corpus=jsonl"] if name == "prepare" else []
        code, line = exit_line(name, *others, argument, f"output={place}")
        assert (code, line.count("\n")) == (Exit.DATASET, 1), line
        assert words in line


def test_a_store_that_goes_away_and_one_without_a_key_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_line: Called
):
    arguments = ["corpus=jsonl", "corpus.paths=['s3://corpus/a.jsonl']", f"output={tmp_path}/data", *SMALL]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with served(_SERVER) as port:
        store = store_at(port, monkeypatch)
        store.mkdir("corpus")
        store.put_file(str(as_jsonl(tmp_path / "a.jsonl", documents(50))), "corpus/a.jsonl")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        s3fs.S3FileSystem.clear_instance_cache()
        code, line = exit_line("prepare", *arguments)
        assert (code, line.count("\n")) == (Exit.DATASET, 1), line
        assert "redentials" in line
        store_at(port, monkeypatch)
    code, line = exit_line("prepare", *arguments)
    assert (code, line.count("\n")) == (Exit.DATASET, 1), line
    assert "s3://corpus/a.jsonl" in line
    s3fs.S3FileSystem.clear_instance_cache()
