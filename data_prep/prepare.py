"""Tokenize one task's share of a corpus into spill files (map).

usage: python -m data_prep.prepare corpus=KIND corpus.paths=[FILE,FOLDER,GLOB,…] output=DIR [key=value …]

  corpus=text      each file is a document (.txt .text .md .rst in folders)
  corpus=jsonl     each line is a document; corpus.text_key=text names the key
  corpus=parquet   each row is a document; corpus.text_key=text names the column
  corpus=json      each item of an array is a document
  corpus=stdlib    the running interpreter's own library; needs no paths
  corpus=openwebtext | fineweb_10bt | fineweb_100bt | fineweb_edu_10bt | fineweb_edu_100bt | wikitext103 |
         tinystories: from the hub hf://

  Paths may be URLs (s3:// gs:// https:// hf://datasets/…); files may end in .gz .zst .xz .bz2.

  task_index=i task_count=n     do every n-th unit of work; run all n tasks, in any order, on any machines
                                (in a SLURM array, --array=0-N, these are set already)
  workers=auto                  processes: one for each CPU, or a number
  tokenizer=tiktoken            or gigatoken: faster, the same tokens, an optional package
  corpus.checksums=FILE         a list as sha256sum writes it: a file that differs from it is refused
  corpus.errors=strict          text that is not UTF-8: strict | replace | drop
  packing.block_tokens=65536    tokens per block, a power of two
  packing.shard_tokens=67108864 tokens per shard, about
  validation.fraction=0.005     of the documents, held back for validation
  validation.tokens=10000000    or so many tokens, about
  +decontamination.sets.NAME=FILE    report how much of an evaluation set the corpus holds, and drop documents
  decontamination.drop_above=0.5     of whose 8-grams more than this share are in one

A task that was killed is run again with the same command; it does only what is missing. When all are
done: python -m data_prep.finalize output=DIR
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from omegaconf import OmegaConf

from conf import compose, typed
from conf.command import run
from conf.exits import ConfigError, DatasetError
from data_prep.contamination import DecontaminationConfig
from data_prep.counts import Counts, total
from data_prep.fast_tokenizer import load_encoder
from data_prep.filters import FilterConfig
from data_prep.index import INDEX
from data_prep.packing import PackingConfig
from data_prep.plan import Plan, Settings, ValidationConfig, agreed_plan, read_plan, spill_folder
from data_prep.pool import each, worker_count
from data_prep.progress import Progress
from data_prep.shuffle import map_unit
from data_prep.sources import CorpusConfig, list_corpus
from data_prep.space import predicted_bytes, require_space
from data_prep.spill import read_marker

# Published token counts are rounded, and filters drop a few documents.
_TOKENS_TOLERANCE = 0.05
# How many of the files that are left out are named.
_NAMED = 3


@dataclass(frozen=True)
class PrepareConfig:
    """One task of data preparation.

    The defaults are empty schemas: OmegaConf cannot merge into a nested frozen dataclass without one.
    """

    output: str
    task_index: int
    task_count: int
    workers: int | str
    tokenizer: str
    corpus: CorpusConfig = field(default_factory=partial(OmegaConf.structured, CorpusConfig))
    filters: FilterConfig = field(default_factory=partial(OmegaConf.structured, FilterConfig))
    packing: PackingConfig = field(default_factory=partial(OmegaConf.structured, PackingConfig))
    validation: ValidationConfig = field(default_factory=partial(OmegaConf.structured, ValidationConfig))
    decontamination: DecontaminationConfig = field(
        default_factory=partial(OmegaConf.structured, DecontaminationConfig)
    )

    def __post_init__(self):
        if not 0 <= self.task_index < self.task_count:
            raise ConfigError(
                f"task_index={self.task_index} is not one of {self.task_count} tasks; the first is 0"
            )
        worker_count(self.workers, 1)

    @property
    def settings(self) -> Settings:
        """What decides the output bytes."""
        return Settings(self.corpus, self.filters, self.packing, self.validation, self.decontamination)


def main(overrides: list[str]) -> None:
    """Do one task's units that are not done yet."""
    config = typed(PrepareConfig, compose("prepare", overrides))
    output = Path(config.output).expanduser()
    found = list_corpus(config.corpus)
    plan = agreed_plan(output, config.settings, found.inputs)
    if (output / INDEX).exists():
        print(f"prepare: {output} is finished; nothing to do")
        return
    load_encoder(config.tokenizer)  # a vocabulary that is not there fails here, once
    spill_folder(output).mkdir(exist_ok=True)
    units = range(config.task_index, len(plan.units), config.task_count)
    workers = worker_count(config.workers, len(units))
    _announce(config, plan, output, workers)
    _tell_left_out(config, found.left_out)
    progress = Progress("prepare", _bytes_of(plan, units))
    parts: list[Counts] = []
    for unit, counts in each(partial(_counts_of_unit, output, config.tokenizer), units, workers):
        parts.append(counts)
        progress.advance(_bytes_of(plan, [unit]), counts.tokens)
    progress.finish()
    _report(config, plan, output, total(parts), progress.elapsed_seconds)


def _counts_of_unit(output: Path, tokenizer: str, unit: int) -> Counts:
    """Do one unit in a worker process; the plan of a million files is read once, not sent with each unit."""
    return map_unit(_plan_of_worker(output), output, unit, load_encoder(tokenizer)).counts


@cache
def _plan_of_worker(output: Path) -> Plan:
    return read_plan(output)


def _announce(config: PrepareConfig, plan: Plan, output: Path, workers: int) -> None:
    """Print how much work there is; raise NoSpaceError if the disk cannot hold what is left of it."""
    folder = spill_folder(output)
    left = [unit for unit in range(len(plan.units)) if read_marker(folder, unit, plan.digest) is None]
    text_bytes, spill_bytes = sum(plan.unit_bytes), predicted_bytes(_bytes_of(plan, left))
    shard_bytes = predicted_bytes(text_bytes)
    free = require_space(output, spill_bytes + shard_bytes, "the spill files and shards")
    print(
        f"prepare: task {config.task_index} of {config.task_count}, {workers} workers; {len(plan.inputs):,} "
        f"files, about {text_bytes / 1e6:,.1f} MB of text in {len(plan.units):,} units, {len(left):,} to do; "
        f"about {spill_bytes / 1e6:,.1f} MB of spill and {shard_bytes / 1e6:,.1f} MB of shards "
        f"({free / 1e9:,.1f} GB free)"
    )
    if config.validation.tokens is not None:
        print(
            f"prepare: about {config.validation.tokens:,} tokens are a fraction of "
            f"{plan.routing.validation_fraction:.6g}; set that to keep these documents when the corpus grows"
        )


def _tell_left_out(config: PrepareConfig, left_out: list[str]) -> None:
    """Print what lies in the corpus's folders and is not read."""
    if left_out:
        named = ", ".join(left_out[:_NAMED]) + (", …" if len(left_out) > _NAMED else "")
        print(
            f"prepare: note: {len(left_out):,} files or folders beside the corpus's are left out, "
            f"hidden or not ending in {' '.join(config.corpus.suffixes)}: {named}"
        )


def _bytes_of(plan: Plan, units: Iterable[int]) -> int:
    """Return the bytes of input in some units, row groups counted as a share of their file."""
    return sum(plan.unit_bytes[unit] for unit in units)


def _report(config: PrepareConfig, plan: Plan, output: Path, counts: Counts, seconds: float) -> None:
    """Print what this task did and what is left; raise DatasetError if the whole corpus gave nothing."""
    megabytes = counts.text_bytes / 1e6
    print(
        f"prepare: {counts.summary()}; {counts.tokens:,} tokens, {megabytes:,.1f} MB of text "
        f"in {seconds:.1f} s ({megabytes / seconds:.1f} MB/s)"
    )
    markers = [read_marker(spill_folder(output), unit, plan.digest) for unit in range(len(plan.units))]
    if missing := markers.count(None):
        print(
            f"prepare: {missing} of {len(markers)} units are left to other tasks of the {config.task_count}"
        )
        return
    whole = total(marker.counts for marker in markers if marker)
    if not whole.kept:
        raise DatasetError(f"no document is left: {whole.summary()}; check corpus.paths and filters")
    known = config.corpus
    if known.expected_documents not in {None, whole.read}:
        print(
            f"prepare: note: the corpus is known to hold {known.expected_documents:,} documents, "
            f"{whole.read:,} were read"
        )
    if known.expected_tokens is not None and abs(whole.tokens + whole.kept - known.expected_tokens) > (
        _TOKENS_TOLERANCE * known.expected_tokens
    ):
        print(
            f"prepare: note: the corpus is known to hold about {known.expected_tokens:,} tokens, "
            f"{whole.tokens + whole.kept:,} were kept"
        )
    print(f"prepare: all {len(markers)} units are done; next: python -m data_prep.finalize output={output}")


if __name__ == "__main__":
    run(main, name="data_prep.prepare", config="prepare", usage=__doc__ or "")
