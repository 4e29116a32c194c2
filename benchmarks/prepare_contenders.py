"""The programs that benchmarks/prepare.py compares, each as its users write it: JSON lines to tokens on disk.

usage: python benchmarks/prepare_contenders.py NAME CORPUS.jsonl OUTPUT

One process each, GPT-2's tokens, end-of-text behind every document. None deduplicates, shuffles and verifies
but ours; datatrove shuffles the documents of a file, as it does by default.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

_END_OF_TEXT = 50256


def plain(corpus: str, output: str) -> None:
    """Loop over the lines: orjson, tiktoken, 16-bit numbers."""
    import orjson  # noqa: PLC0415  each contender pays for its own imports only

    from data_prep.tokenizer import load_tokenizer  # noqa: PLC0415

    encode = load_tokenizer()._encoding.encode_ordinary
    with Path(corpus).open("rb") as lines, Path(output).open("wb") as out:
        for line in lines:
            tokens = encode(orjson.loads(line)["text"])
            out.write(np.array([_END_OF_TEXT, *tokens], np.uint16).tobytes())


def ours(corpus: str, output: str, *others: str) -> None:
    """Prepare and finalize: validate, hash, route, spill, deduplicate, shuffle, pack, hash, index."""
    from data_prep import finalize, prepare  # noqa: PLC0415

    prepare.main(["corpus=jsonl", f"corpus.paths=[{corpus}]", f"output={output}", "workers=1", *others])
    finalize.main([f"output={output}"])


def ours_fast(corpus: str, output: str) -> None:
    """Prepare with gigatoken, cross-checked, and finalize."""
    ours(corpus, output, "tokenizer=gigatoken")


def datasets_map(corpus: str, output: str) -> None:
    """Map with datasets and write a memory map (karpathy/nanoGPT, data/openwebtext/prepare.py)."""
    from datasets import load_dataset  # noqa: PLC0415

    from data_prep.tokenizer import load_tokenizer  # noqa: PLC0415

    def encode(example: dict) -> dict:
        ids = load_tokenizer().encode(example["text"])
        return {"ids": [*ids, _END_OF_TEXT], "len": len(ids) + 1}

    data = load_dataset("json", data_files=corpus, split="train", cache_dir=output)
    data = data.map(encode, remove_columns=["text"], num_proc=1)
    shape = (int(np.sum(data["len"], dtype=np.uint64)),)
    out = np.memmap(f"{output}.bin", np.uint16, "w+", shape=shape)
    place = 0
    parts = min(1024, len(data))
    for n in range(parts):
        ids = np.concatenate(data.shard(parts, n, contiguous=True).with_format("numpy")["ids"][:])
        out[place : place + len(ids)] = ids
        place += len(ids)


def datatrove(corpus: str, output: str) -> None:
    """Run datatrove's JsonlReader and DocumentTokenizer in one local task."""
    from datatrove.executor import LocalPipelineExecutor  # noqa: PLC0415
    from datatrove.pipeline.readers import JsonlReader  # noqa: PLC0415
    from datatrove.pipeline.tokens import DocumentTokenizer  # noqa: PLC0415

    Path(output).mkdir()
    tokenizer = _hugging_face_tokenizer(Path(output, "tokenizer.json"))
    reader = JsonlReader(str(Path(corpus).parent), glob_pattern=Path(corpus).name)
    writer = DocumentTokenizer(f"{output}/tokens", tokenizer, eos_token="<|endoftext|>", seed=0)
    LocalPipelineExecutor([reader, writer], tasks=1, workers=1, logging_dir=f"{output}/logs").run()


def mosaic(corpus: str, output: str) -> None:
    """Write one sample for each document with MosaicML's MDSWriter, tokens by tiktoken."""
    import orjson  # noqa: PLC0415
    from streaming import MDSWriter  # noqa: PLC0415

    from data_prep.tokenizer import load_tokenizer  # noqa: PLC0415

    encode = load_tokenizer()._encoding.encode_ordinary
    with (
        Path(corpus).open("rb") as lines,
        MDSWriter(out=output, columns={"tokens": "ndarray:uint16"}, hashes=["sha1"]) as out,
    ):
        for line in lines:
            tokens = encode(orjson.loads(line)["text"])
            out.write({"tokens": np.array([*tokens, _END_OF_TEXT], np.uint16)})


def litdata(corpus: str, output: str) -> None:
    """Optimize for litdata's TokensLoader, tokens by tiktoken."""
    from litdata import TokensLoader, optimize  # noqa: PLC0415

    optimize(
        _torch_documents,
        [corpus],
        output,
        chunk_bytes="64MB",
        item_loader=TokensLoader(),
        num_workers=1,
        start_method="fork",
    )


def _torch_documents(corpus: str):
    """Yield the tokens of each document as litdata wants them."""
    import orjson  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from data_prep.tokenizer import load_tokenizer  # noqa: PLC0415

    encode = load_tokenizer()._encoding.encode_ordinary
    with Path(corpus).open("rb") as lines:
        for line in lines:
            yield torch.tensor([*encode(orjson.loads(line)["text"]), _END_OF_TEXT], dtype=torch.int32)


def _hugging_face_tokenizer(path: Path) -> str:
    """Write GPT-2's tokenizer as the library `tokenizers` reads it; return the file's name."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    from data_prep.vocabulary import published_files  # noqa: PLC0415

    content = published_files()
    merges = [tuple(line.split()) for line in content["vocab.bpe"].decode().splitlines()[1:] if line]
    tokenizer = Tokenizer(models.BPE(json.loads(content["encoder.json"]), merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path))
    return str(path)


# Name: (program, package that it needs).
CONTENDERS: dict[str, tuple[Callable[[str, str], None], str]] = {
    "plain loop: orjson, tiktoken, uint16": (plain, "tiktoken"),
    "prepare + finalize": (ours, "tiktoken"),
    "prepare + finalize, tokenizer=gigatoken": (ours_fast, "gigatoken"),
    "datasets.map, as nanoGPT does it": (datasets_map, "datasets"),
    "MosaicML MDSWriter + tiktoken": (mosaic, "streaming"),
    "litdata optimize + tiktoken": (litdata, "litdata"),
    "datatrove DocumentTokenizer": (datatrove, "datatrove"),
}

if __name__ == "__main__":
    CONTENDERS[sys.argv[1]][0](*sys.argv[2:4])
