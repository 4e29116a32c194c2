import errno
import gc
import io
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from corpora import as_jsonl, documents, hashes

from conf.exits import Exit
from data_prep import finalize, prepare, shuffle
from data_prep.index import read_index
from data_prep.shards import read_block
from data_prep.tokenizer import END_OF_TEXT, load_tokenizer

SMALL = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1", "workers=1"]
Make = Callable[..., Path]
Called = Callable[..., tuple[int, str]]


def tokens_of(folder: Path, split: str) -> list[list[int]]:
    """Return the tokens of each shard, read by tarfile and NumPy alone."""
    index = json.loads((folder / "index.json").read_text())
    streams = []
    for shard in index["splits"][split]["shards"]:
        with tarfile.open(folder / shard["name"]) as tar:
            files = [tar.extractfile(name) for name in tar.getnames() if name.endswith(".npy")]
            arrays = [np.load(io.BytesIO(file.read())) for file in files if file]
        streams.append([token for array in arrays for token in array[:-1].tolist()])
    return streams


def documents_of(stream: list[int]) -> list[str]:
    text = load_tokenizer().decode(stream)
    assert text.startswith("<|endoftext|>")
    return text.split("<|endoftext|>")[1:]


def test_every_document_is_in_the_shards_once(make: Make, tmp_path: Path):
    texts = documents(200)
    output = make([as_jsonl(tmp_path / "a.jsonl", texts)])
    found = {
        split: [d for s in tokens_of(output, split) for d in documents_of(s)]
        for split in ("train", "validation")
    }
    assert sorted(found["train"] + found["validation"]) == sorted(texts)
    index = read_index(output)
    assert {split: len(texts) for split, texts in found.items()} == {
        n: s.documents for n, s in index.splits.items()
    }
    assert index.validation_rule == "hash"
    encode = load_tokenizer().encode
    assert sum(s.tokens for s in index.splits.values()) == sum(len(encode(text)) + 1 for text in texts)


def test_documents_are_shuffled(make: Make, tmp_path: Path):
    output = make([as_jsonl(tmp_path / "a.jsonl", documents(200))], "packing.shard_tokens=67108864")
    found = documents_of(tokens_of(output, "train")[0])
    numbers = [int(text.split()[0]) for text in found]
    assert numbers != sorted(numbers)
    assert abs(np.corrcoef(numbers, range(len(numbers)))[0, 1]) < 0.3


def test_another_seed_gives_another_order_of_the_same_documents(make: Make, tmp_path: Path):
    path = as_jsonl(tmp_path / "a.jsonl", documents(200))
    one, two = (make([path], f"packing.seed={seed}", name=f"seed{seed}") for seed in (0, 1))
    orders = [[documents_of(stream) for stream in tokens_of(output, "train")] for output in (one, two)]
    assert orders[0] != orders[1]
    assert [sorted(shard) for shard in orders[0]] == [sorted(shard) for shard in orders[1]]


def test_one_text_is_split_in_the_middle_and_nothing_of_it_is_lost(make: Make, tmp_path: Path):
    text = "".join(documents(60)) + "\r\n\x00 the end 北"
    (tmp_path / "a.txt").write_bytes(text.encode())
    output = make([tmp_path / "a.txt"], kind="text", name="data")
    index = read_index(output)
    (train,), (validation,) = tokens_of(output, "train"), tokens_of(output, "validation")
    assert index.validation_rule == "tail"
    assert [END_OF_TEXT, *load_tokenizer().encode(text)] == train + validation
    assert load_tokenizer().decode((train + validation)[1:]).encode() == text.encode()
    assert len(validation) == len(train + validation) // 10
    last = index.splits["train"].shards[-1]
    assert read_block(output, last, last.block_count - 1)[-1] == validation[0]
    assert (index.splits["train"].documents, index.splits["validation"].documents) == (1, 0)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_corpus_of_one_document_has_both_splits_wherever_its_hash_falls(
    fraction: float, make: Make, tmp_path: Path
):
    (tmp_path / "a.txt").write_text("one document " * 500)
    output = make([tmp_path / "a.txt"], f"validation.fraction={fraction}", kind="text", name="data")
    assert sorted(path.name for path in output.glob("*.tar")) == ["train-00000.tar", "validation-00000.tar"]
    (train,), (validation,) = tokens_of(output, "train"), tokens_of(output, "validation")
    assert documents_of(train + validation) == ["one document " * 500]
    assert len(validation) == len(train + validation) // 10


def test_without_a_fraction_there_is_no_validation(make: Make, tmp_path: Path):
    output = make([as_jsonl(tmp_path / "a.jsonl", documents(20))], "validation.fraction=0")
    index = read_index(output)
    assert index.validation_rule == "none"
    assert index.splits["validation"].shards == ()
    assert index.splits["train"].documents == 20


def test_the_shortest_corpus_has_both_splits(make: Make, tmp_path: Path):
    (tmp_path / "a.txt").write_text("a")
    output = make([tmp_path / "a.txt"], kind="text")
    assert tokens_of(output, "train") == [[END_OF_TEXT]]
    assert tokens_of(output, "validation") == [[64]]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_webdataset_reads_the_shards_as_they_are(make: Make, tmp_path: Path):
    output = make([as_jsonl(tmp_path / "a.jsonl", documents(300))])
    shards = read_index(output).splits["train"].shards
    urls = [str(output / shard.name) for shard in shards]
    arrays = [sample["npy"] for sample in wds.WebDataset(urls, shardshuffle=False).decode()]
    gc.collect()
    assert all(array.dtype == np.uint16 for array in arrays)
    expected = [token for stream in tokens_of(output, "train") for token in stream]
    assert [token for array in arrays for token in array[:-1].tolist()] == expected


def test_finalize_refuses_while_units_are_missing_and_names_them(tmp_path: Path, exit_line: Called):
    as_jsonl(tmp_path / "a.jsonl", documents(3000))
    arguments = ["corpus=jsonl", f"corpus.paths=[{tmp_path}/a.jsonl]", f"output={tmp_path}/data", *SMALL]
    prepare.main([*arguments, "task_index=1", "task_count=2"])
    code, line = exit_line("finalize", f"output={tmp_path}/data")
    assert code == Exit.DATASET
    assert "units are not prepared: 0, 2" in line
    assert not list(tmp_path.glob("data/*.tar"))


def test_finalize_without_prepare_says_what_to_run(tmp_path: Path, exit_line: Called):
    code, line = exit_line("finalize", f"output={tmp_path}/none")
    assert code == Exit.DATASET
    assert "data_prep.prepare" in line


def test_finalize_as_several_tasks_gives_the_same_bytes(make: Make, tmp_path: Path):
    path = as_jsonl(tmp_path / "a.jsonl", documents(800))
    expected = hashes(make([path], name="one"))
    prepare.main(["corpus=jsonl", f"corpus.paths=[{path}]", f"output={tmp_path}/many", *SMALL])
    for task in (2, 0, 1):
        assert not (tmp_path / "many/index.json").exists()
        finalize.main([f"output={tmp_path}/many", f"task_index={task}", "task_count=3"])
    assert hashes(tmp_path / "many") == expected


@pytest.mark.parametrize(
    "instant", ["_markers", "validation_rule", "is_reduced", "bucket_result", "index_content"]
)
def test_a_task_that_another_one_overtakes_finds_the_data_set_there(
    instant: str,
    make: Make,
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    exit_line: Called,
):
    path = as_jsonl(tmp_path / "a.jsonl", documents(300))
    expected = hashes(make([path], name="one"))
    output = tmp_path / "two"
    prepare.main(["corpus=jsonl", f"corpus.paths=[{path}]", f"output={output}", *SMALL])
    finalize.main([f"output={output}", "task_index=0", "task_count=2"])
    slower = getattr(finalize, instant)

    def overtaken(*arguments: object) -> object:
        monkeypatch.setattr(finalize, instant, slower)
        finalize.main([f"output={output}", "task_index=1", "task_count=2"])
        assert not (output / "spill").exists()
        return slower(*arguments)

    monkeypatch.setattr(finalize, instant, overtaken)
    assert exit_line("finalize", f"output={output}", "task_index=1", "task_count=2") == (Exit.OK, "")
    assert hashes(output) == expected
    assert not (output / "spill").exists()


def test_an_index_that_the_disk_did_not_take_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exit_line: Called
):
    path = as_jsonl(tmp_path / "a.jsonl", documents(50))
    output = tmp_path / "data"
    prepare.main(["corpus=jsonl", f"corpus.paths=[{path}]", f"output={output}", *SMALL])

    def failing(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        raise OSError(errno.EIO, "Input/output error", str(path))  # by the sync of the folder

    with monkeypatch.context() as patch:
        patch.setattr(finalize, "publish", failing)
        assert exit_line("finalize", f"output={output}")[0] == Exit.DISK
    assert (output / "spill").exists()


def test_a_task_reads_the_shards_of_others_only_when_all_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = as_jsonl(tmp_path / "a.jsonl", documents(800))
    prepare.main(["corpus=jsonl", f"corpus.paths=[{path}]", f"output={tmp_path}/data", *SMALL])
    read: list[str] = []
    whole = shuffle.sha256_of_file
    monkeypatch.setattr(shuffle, "sha256_of_file", lambda path: read.append(path.name) or whole(path))
    for task in range(3):
        assert not read
        finalize.main([f"output={tmp_path}/data", f"task_index={task}", "task_count=3"])
    shards = [path.name for path in tmp_path.glob("data/*.tar")]
    assert len(read) == len(set(read)) == pytest.approx(len(shards) * 2 / 3, abs=1)


def test_a_damaged_spill_file_is_never_packed(tmp_path: Path, exit_line: Called):
    as_jsonl(tmp_path / "a.jsonl", documents(300))
    prepare.main(["corpus=jsonl", f"corpus.paths=[{tmp_path}/a.jsonl]", f"output={tmp_path}/data", *SMALL])
    spill = tmp_path / "data/spill/unit-000003.spill"
    whole, chance = spill.read_bytes(), random.Random(0)
    for _ in range(40):
        at = chance.randrange(len(whole))
        damaged = whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]
        for result in tmp_path.glob("data/spill/bucket-*.json"):
            result.unlink()
        spill.write_bytes(damaged if chance.random() < 0.7 else whole[:at])
        code, line = exit_line("finalize", f"output={tmp_path}/data")
        assert (code, line.count("\n")) == (Exit.CORRUPT, 1), line
        assert not (tmp_path / "data/index.json").exists()


def test_a_damaged_shard_of_an_earlier_run_is_made_again(make: Make, tmp_path: Path):
    path = as_jsonl(tmp_path / "a.jsonl", documents(800))
    expected = hashes(make([path], name="one"))
    output = tmp_path / "two"
    prepare.main(["corpus=jsonl", f"corpus.paths=[{path}]", f"output={output}", *SMALL])
    finalize.main([f"output={output}", "task_index=0", "task_count=2"])
    first = output / "train-00000.tar"
    first.write_bytes(b"x" + first.read_bytes()[1:])
    (output / "train-00001.tar").write_bytes(b"partial")
    finalize.main([f"output={output}"])
    assert hashes(output) == expected


def test_the_spill_stays_if_asked(make: Make, tmp_path: Path):
    path = as_jsonl(tmp_path / "a.jsonl", documents(20))
    prepare.main(["corpus=jsonl", f"corpus.paths=[{path}]", f"output={tmp_path}/data", *SMALL])
    finalize.main([f"output={tmp_path}/data", "keep_spill=true"])
    assert list(tmp_path.glob("data/spill/*.spill"))
    finalize.main([f"output={tmp_path}/data"])
    assert not (tmp_path / "data/spill").exists()


@pytest.mark.parametrize(
    ("place", "says"),
    [("shards", "put=shards is not a URL; use s3://…"), ("s4://a/b", "cannot open s4:// paths")],
)
def test_a_place_for_the_shards_that_cannot_be_is_refused_before_they_are_made(
    place: str, says: str, corpus: list[Path], tmp_path: Path, exit_line: Called
):
    prepare.main(["corpus=jsonl", f"corpus.paths={corpus[0]}", f"output={tmp_path}/data", *SMALL])
    code, line = exit_line("finalize", f"output={tmp_path}/data", f"put={place}")
    assert (code, line.count("\n")) == (Exit.CONFIG, 1)
    assert says in line
    assert not list((tmp_path / "data").glob("*.tar"))
