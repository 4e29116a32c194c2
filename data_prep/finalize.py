"""Turn spill files into shuffled, deduplicated shards and their index (reduce).

usage: python -m data_prep.finalize output=DIR [task_index=i task_count=n] [keep_spill=true] [put=URL]

Refuses while units of data_prep.prepare are missing. With several tasks, each makes its share of the
shards and the last to end writes index.json. A run that was killed is started again with the same command.
put=s3://… (or gs://…, any URL of fsspec) copies the finished data set there, its index last.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conf import compose, typed
from conf.command import run
from conf.exits import ConfigError, DatasetError, UserError
from data_prep.contamination import Overlap, load_evaluation
from data_prep.counts import Counts, counts_of, total
from data_prep.index import INDEX, SPLITS, Index, read_index, shard_record
from data_prep.packing import DTYPE
from data_prep.plan import Plan, read_plan, spill_folder
from data_prep.progress import Progress
from data_prep.publish import publish
from data_prep.remote import check_put, put
from data_prep.shards import FORMAT
from data_prep.shuffle import BucketResult, bucket_result, is_reduced, reduce_bucket
from data_prep.space import require_space
from data_prep.spill import Marker, documents_per_bucket, read_marker
from data_prep.tokenizer import END_OF_TEXT, NAME, VOCABULARY_SHA256

# How many missing units an error names.
_NAMED = 8


@dataclass(frozen=True)
class FinalizeConfig:
    """One task of finalizing."""

    output: str
    task_index: int
    task_count: int
    keep_spill: bool
    put: str | None

    def __post_init__(self):
        if not 0 <= self.task_index < self.task_count:
            raise ConfigError(
                f"task_index={self.task_index} is not one of {self.task_count} tasks; the first is 0"
            )


def main(overrides: list[str]) -> None:
    """Make one task's share of the shards; write the index when all shards are there."""
    config = typed(FinalizeConfig, compose("finalize", overrides))
    output = Path(config.output).expanduser()
    plan = read_plan(output)
    if config.put is not None:
        check_put(config.put)  # before hours of work, not after them
    if not (output / INDEX).exists() and not _published(config, plan, output):
        return
    index = read_index(output)
    if config.put is not None:
        shards = [output / shard.name for split in index.splits.values() for shard in split.shards]
        put([*shards, output / INDEX], config.put)
    if not config.keep_spill:
        shutil.rmtree(spill_folder(output), ignore_errors=True)
    _report(index)
    if config.put is not None:
        print(f"finalize: {config.put} holds the shards and, written last, {INDEX}")


def _published(config: FinalizeConfig, plan: Plan, output: Path) -> bool:
    """Make a task's shards and, if no other is missing, the index; return whether the index is there."""
    try:
        content, missing = _shards(config, plan, output)
    except (OSError, UserError):
        # Of tasks that end at once one is first, and clears away what the others still read.
        if not (output / INDEX).exists():
            raise
        return True
    if content:
        publish(output / INDEX, content)
    elif not (output / INDEX).exists():
        print(f"finalize: {missing} of {plan.routing.buckets} shards are left to other tasks")
        return False
    return True


def _shards(config: FinalizeConfig, plan: Plan, output: Path) -> tuple[bytes, int]:
    """Make a task's shards; return the index, or nothing and how many shards are missing of the others'."""
    markers = _markers(plan, output)
    rule, tail_bucket = validation_rule(plan, output, markers)
    tokens = sum(marker.counts.tokens + marker.counts.kept for marker in markers)
    require_space(output, tokens * DTYPE.itemsize, "the shards")
    buckets = range(plan.routing.buckets)
    progress = Progress("finalize", sum(marker.bytes for marker in markers))
    made: dict[int, BucketResult] = {}
    for bucket in buckets[config.task_index :: config.task_count]:
        made[bucket] = result = reduce_bucket(plan, output, bucket, with_tail=bucket == tail_bucket)
        progress.advance(sum(shard.bytes for _, shard in result.shards), result.counts.tokens)
    progress.finish()
    # Only the task that finds all of the others' records reads their shards, to see that they are whole.
    if missing := sum(not is_reduced(output, bucket) for bucket in buckets):
        return b"", missing
    results = [made.get(bucket) or bucket_result(plan, output, bucket) for bucket in buckets]
    if missing := results.count(None):
        return b"", missing
    return index_content(plan, markers, [result for result in results if result], rule), 0


def validation_rule(plan: Plan, output: Path, markers: list[Marker]) -> tuple[str, int | None]:
    """Return how validation is chosen, and the bucket that is cut in two if a split would be empty.

    A corpus of few documents, such as one file, may put them all into one split.
    """
    routing = plan.routing
    if not sum(marker.counts.kept for marker in markers):
        whole = total(marker.counts for marker in markers)
        raise DatasetError(
            f"{output}: no document is left: {whole.summary()}; check corpus.paths and filters"
        )
    folder = spill_folder(output)
    documents = np.zeros(routing.buckets, np.int64)
    for unit in range(len(plan.units)):
        documents += documents_per_bucket(folder, unit, routing.buckets)
    if not routing.validation_buckets:
        return "none", None
    if documents[: routing.train_buckets].any() and documents[routing.train_buckets :].any():
        return "hash", None
    return "tail", int(np.flatnonzero(documents)[-1])


def index_content(plan: Plan, markers: list[Marker], results: list[BucketResult], rule: str) -> bytes:
    """Return the bytes of index.json: a function of the corpus and the settings, of nothing else."""
    counts = _balanced(markers, results)
    splits: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        shards = [shard for result in results for name, shard in result.shards if name == split]
        splits[split] = {
            "tokens": sum(shard.tokens for shard in shards),
            "documents": sum(shard.documents for shard in shards),
            "shards": [shard_record(shard) for shard in shards],
        }
    settings = json.dumps(plan.settings, sort_keys=True, separators=(",", ":"))
    record = {
        "format": FORMAT,
        "tokenizer": NAME,
        "vocabulary_sha256": VOCABULARY_SHA256,
        "end_of_text": END_OF_TEXT,
        "dtype": DTYPE.name,
        "block_tokens": plan.packing.block_tokens,
        "config": plan.settings,
        "config_sha256": hashlib.sha256(settings.encode()).hexdigest(),
        "validation_rule": rule,
        "counts": counts.record(),
        "overlap": _overlap(plan, markers),
        "splits": splits,
    }
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _overlap(plan: Plan, markers: list[Marker]) -> dict[str, dict[str, int]]:
    """Return how much of each evaluation set the corpus holds."""
    evaluation = load_evaluation(plan.evaluation)
    overlap = Overlap(evaluation)
    for marker in markers:
        overlap.add(marker.overlap)
    return overlap.table(evaluation)


def _balanced(markers: list[Marker], results: list[BucketResult]) -> Counts:
    """Return the totals of the whole corpus; every document that was read is in them once."""
    mapped, reduced = total(marker.counts for marker in markers), total(result.counts for result in results)
    assert mapped.kept == reduced.read, "documents were lost between prepare and finalize"
    counts = Counts(
        mapped.read, reduced.kept, mapped.dropped + reduced.dropped, reduced.text_bytes, reduced.tokens
    )
    assert counts.balanced
    return counts


def _markers(plan: Plan, output: Path) -> list[Marker]:
    """Return the marker of every unit; raise DatasetError naming those that are missing."""
    found = [read_marker(spill_folder(output), unit, plan.digest) for unit in range(len(plan.units))]
    if missing := [str(unit) for unit, marker in enumerate(found) if marker is None]:
        named = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
        raise DatasetError(
            f"{output}: {len(missing)} of {len(found)} units are not prepared: {named}; "
            "run data_prep.prepare again"
        )
    return [marker for marker in found if marker]


def _report(index: Index) -> None:
    """Print what the data set holds."""
    if index.validation_rule == "tail":
        print("finalize: too few documents for a split by document; the end of the last shard is held back")
    for name, split in index.splits.items():
        size = sum(shard.bytes for shard in split.shards)
        print(
            f"finalize: {name:10}  {split.tokens:>14,} tokens  {split.documents:>11,} documents  "
            f"{len(split.shards):>6,} shards  {size / 1e6:,.1f} MB"
        )
    for name, found in index.overlap.items():
        grams, corpus, kept = found["eight_grams"], found["in_corpus"], found["in_kept"]
        print(
            f"finalize: evaluation set {name}: {corpus / grams:.2%} of its {grams:,} 8-grams are in "
            f"the corpus, {kept / grams:.2%} in the documents that are kept"
        )
    print(f"finalize: {counts_of(index.counts).summary()}")
    print(f"finalize: {index.directory / INDEX}  fingerprint {index.fingerprint[:16]}")


if __name__ == "__main__":
    run(main, name="data_prep.finalize", config="finalize", usage=__doc__ or "")
