"""The index of a data set: which shards there are, and what vouches for each; see `docs/shard_format.md`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from conf.exits import DatasetError
from data_prep.packing import DTYPE
from data_prep.shards import FORMAT, Shard

INDEX = "index.json"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Split:
    """The shards of `train` or `validation`."""

    tokens: int
    documents: int
    shards: Sequence[Shard]

    def __post_init__(self):
        for name in ("tokens", "documents"):
            total = sum(getattr(shard, name) for shard in self.shards)
            if total != getattr(self, name):
                raise ValueError(f"the shards hold {total} {name}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Index:
    """A finished data set."""

    location: str  # the folder that holds it, or its URL
    fingerprint: str  # SHA-256 of the bytes of index.json: two data sets are one if it is equal
    tokenizer: str
    vocabulary_sha256: str
    end_of_text: int
    block_tokens: int
    splits: Mapping[str, Split]
    validation_rule: str  # "hash": a slice of the documents; "tail": the end of the last shard; "none"
    counts: Mapping[str, Any] = field(default_factory=dict)  # documents and bytes of text; see counts.py
    overlap: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # 8-grams of evaluation sets met
    config: Mapping[str, Any] = field(default_factory=dict)  # the settings that decided the bytes
    config_sha256: str = ""

    @property
    def corpus(self) -> str | None:
        """Return the name of the corpus, a preset's or one that was given, if it has any."""
        corpus = self.config.get("corpus") if isinstance(self.config, Mapping) else None
        name = corpus.get("name") if isinstance(corpus, Mapping) else None
        return name if isinstance(name, str) else None

    @property
    def directory(self) -> Path:
        """Return the folder of a data set on a local disk; raise DatasetError for one behind a URL."""
        if ":" in self.location.partition("/")[0]:
            raise DatasetError(f"{self.location} is not a local folder; copy the data set to one first")
        return Path(self.location)


def read_index(path: Path | str) -> Index:
    """Return the index at `path`: the file index.json, or the folder that holds it.

    Raises DatasetError if it is missing, is not an index, or is of another format version or dtype.
    """
    path = Path(path).expanduser()
    if path.name != INDEX:
        if path.is_file():
            raise DatasetError(f"{path} is not the {INDEX} of a data set, nor a folder that holds one")
        path = path / INDEX
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(
            f"{path} does not exist; make it with data_prep.prepare, then data_prep.finalize"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    return parse_index(content, str(path.parent.resolve()))


def parse_index(content: bytes, location: str) -> Index:
    """Return the index whose file holds `content`; raise DatasetError as `read_index` does."""
    path = f"{location}/{INDEX}"
    try:
        raw = json.loads(content)
        version, dtype = raw["format"], raw["dtype"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DatasetError(f"{path} is not the index of a data set") from None
    if version != FORMAT:
        raise DatasetError(
            f"{path} has format {version}, this program reads {FORMAT}; prepare the corpus again"
        )
    if dtype != DTYPE.name:
        raise DatasetError(f"{path} holds {dtype} tokens, this program reads {DTYPE.name}")
    try:
        return _index(location, hashlib.sha256(content).hexdigest(), raw)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DatasetError(f"{path} is not a valid index: {type(error).__name__} {error}") from None


def shard_record(shard: Shard) -> dict[str, Any]:
    """Return a shard as index.json writes it."""
    record = asdict(shard)
    del record["block_tokens"]  # the same of all
    return record


def shard_of(record: Mapping[str, Any], block_tokens: int) -> Shard:
    """Return the shard that `shard_record` wrote; raise ValueError, KeyError or TypeError for nonsense."""
    return Shard(
        name=str(record["name"]),
        bytes=int(record["bytes"]),
        sha256=str(record["sha256"]),
        tokens=int(record["tokens"]),
        documents=int(record["documents"]),
        digests=str(record["digests"]),
        block_tokens=block_tokens,
    )


def _index(location: str, fingerprint: str, raw: Mapping[str, Any]) -> Index:
    splits, block_tokens = {}, int(raw["block_tokens"])
    for name in SPLITS:
        shards = tuple(shard_of(record, block_tokens) for record in raw["splits"][name]["shards"])
        splits[name] = Split(
            int(raw["splits"][name]["tokens"]), int(raw["splits"][name]["documents"]), shards
        )
    return Index(
        location=location,
        fingerprint=fingerprint,
        tokenizer=str(raw["tokenizer"]),
        vocabulary_sha256=str(raw["vocabulary_sha256"]),
        end_of_text=int(raw["end_of_text"]),
        block_tokens=block_tokens,
        splits=MappingProxyType(splits),
        validation_rule=str(raw["validation_rule"]),
        counts=raw["counts"],
        overlap=raw["overlap"],
        config=raw["config"],
        config_sha256=str(raw["config_sha256"]),
    )
