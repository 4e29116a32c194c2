"""Which data a run reads: one data set, several in proportion, or none that exists.

A source is a data set with its weight; with one, everything is as if there were no mixture.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from conf.exits import ConfigError, DatasetError, RefusedError
from data_prep import remote
from data_prep.index import INDEX, Index, parse_index, read_index
from pretrain.stream.blocks import Blocks, LocalBlocks
from pretrain.stream.mixing import Mixture
from pretrain.stream.remote import FetchConfig, RemoteBlocks
from pretrain.stream.sequences import ALIGNMENTS, Sequences
from pretrain.stream.staging import StagedBlocks
from pretrain.stream.synthetic import SyntheticBlocks, synthetic_index

_SCHEMES = ("s3", "gs", "https", "http", "hf")


@dataclass(frozen=True)
class MixSource:
    """One data set of a mixture."""

    index: str
    weight: float = 1.0  # its share of the sequences is weight / sum of weights
    epochs_cap: float | None = None  # a run that would read it more often is refused
    name: str | None = None  # in metrics; null is the name of its folder

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(
                f"data.mix: weight {self.weight} of {self.index} must be above 0; or leave it out"
            )
        if self.epochs_cap is not None and not self.epochs_cap > 0:
            raise ValueError(
                f"data.mix: epochs_cap {self.epochs_cap} of {self.index} must be above 0, or null"
            )


@dataclass(frozen=True)
class DataConfig:
    """Which data, in which order."""

    index: str | None = None
    mix: list[MixSource] | None = None  # instead of index
    synthetic: int | None = None  # tokens of a data set made of nothing, instead of index
    epochs: float | None = None  # how often the data is read, instead of steps; of a mixture, the smallest
    sequence_tokens: int = 1024  # T; the model's context, or less
    lanes: int | None = None  # blocks that a batch mixes; None is one for each sequence of a batch
    prefetch_batches: int = 3
    document_mask: bool = False  # no attention across documents, and positions that begin anew in each
    align: str = "block"  # "document": sequences begin where a document does, if one does in their row
    skip_sequences: int = 0  # of damaged blocks, at most, over the whole run; 0 stops at the first
    fetch: FetchConfig = field(default_factory=FetchConfig)

    @property
    def indices(self) -> list[str]:
        """Return where the indices of the data sets are, as they were given."""
        return [each.index for each in self.mix or []] or ([self.index] if self.index is not None else [])

    def __post_init__(self) -> None:
        for name in ("sequence_tokens", "prefetch_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1, not {getattr(self, name)}")
        if self.lanes is not None and self.lanes < 1:
            raise ValueError(f"data.lanes must be at least 1, or null for one per sequence, not {self.lanes}")
        if self.epochs is not None and not self.epochs > 0:
            raise ValueError(f"data.epochs must be above 0, or null, not {self.epochs}")
        if self.synthetic is not None and self.synthetic < 1:
            raise ValueError(f"data.synthetic must be at least 1 token, or null, not {self.synthetic}")
        if self.skip_sequences < 0:
            raise ValueError(f"data.skip_sequences {self.skip_sequences} is negative; 0 skips none")
        if self.align not in ALIGNMENTS:
            raise ValueError(f"data.align {self.align!r} is not one of: {', '.join(ALIGNMENTS)}")
        given = [name for name in ("index", "mix", "synthetic") if getattr(self, name) not in (None, [])]
        if len(given) > 1:
            raise ValueError(f"data.{given[0]} and data.{given[1]} are both given; keep one")


@dataclass(frozen=True)
class Source:
    """One data set that a run reads."""

    name: str
    weight: float
    epochs_cap: float | None
    index: Index


def opened_sources(data: DataConfig) -> list[Source]:
    """Return the data sets that a run reads, their indices checked.

    Raises DatasetError, ConfigError or RefusedError as `index_at` does.
    """
    if data.synthetic is not None:
        return [Source("synthetic", 1.0, None, synthetic_index(data.synthetic))]
    if data.index is not None:
        index = index_at(data.index)
        return [Source(_name(index), 1.0, None, index)]
    if not data.mix:
        raise ConfigError(
            "data.index has no value; add data.index=…/index.json to the command, or data.mix=… or "
            "data.synthetic=…"
        )
    sources = []
    for each in data.mix or []:
        index = index_at(each.index)
        sources.append(Source(each.name or _name(index), each.weight, each.epochs_cap, index))
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"data.mix: two sources are called {name}; give each a name: {{name: …}}")
    return sources


def index_at(place: str) -> Index:
    """Return the index at a path or URL: the file index.json, or the folder that holds it.

    Raises DatasetError as `read_index` does, and RefusedError for a URL that would run a program or
    put a password into the run's records.
    """
    if "://" not in place and not place.startswith("pipe:"):
        return read_index(place)
    scheme, _, rest = place.partition(":")
    if scheme not in _SCHEMES or "::" in place:
        raise RefusedError(
            f"{place}: only {', '.join(_SCHEMES)} URLs are read; pipe: and chains would run more"
        )
    if "@" in rest.lstrip("/").partition("/")[0]:
        raise RefusedError(
            f"data.index holds credentials for {scheme}://, which the run's records would show; give them "
            "by the environment or a credentials file"
        )
    url = place if place.endswith(f"/{INDEX}") else f"{place.rstrip('/')}/{INDEX}"
    return parse_index(remote.read_whole(url), url.removesuffix(f"/{INDEX}"))


def fingerprint(sources: Sequence[Source]) -> str:
    """Return what two runs on the same data have in common: the index's own, or one over all of them."""
    if len(sources) == 1:
        return sources[0].index.fingerprint
    return hashlib.sha256(json.dumps([source.index.fingerprint for source in sources]).encode()).hexdigest()


def blocks_of(index: Index, config: FetchConfig) -> Blocks:
    """Return the way to a data set's blocks."""
    if index.location.startswith("synthetic:"):
        return SyntheticBlocks()
    if config.stage_dir is not None:
        return StagedBlocks(index, config)
    return RemoteBlocks(index, config) if remote.is_remote(index.location) else LocalBlocks(index.directory)


def training_data(
    sources: Sequence[Source], data: DataConfig, *, batch_sequences: int, seed: int, share: int | None = None
) -> tuple[list[Sequences], Mixture]:
    """Return the training splits and the order in which all ranks together read them.

    `share` is how many sequences of a batch this process reads; None is all. Raises DatasetError if a
    source holds no whole sequence, ConfigError if a weight is less than one lane.
    """
    lanes = data.lanes or batch_sequences
    # A block for each lane that this process reads: the lanes come round in turn, so the one that was
    # used longest ago is the one that its lane has just left.
    cached = lanes if lanes % batch_sequences else lanes // batch_sequences * (share or batch_sequences)
    found = []
    for source in sources:
        sequences = Sequences(
            source.index,
            "train",
            data.sequence_tokens,
            cached_blocks=cached,
            blocks=blocks_of(source.index, data.fetch),
            align=data.align,
            tolerant=data.skip_sequences > 0,
        )
        if not len(sequences):
            raise DatasetError(
                f"{source.index.location}/index.json: no training block holds a whole sequence of "
                f"{data.sequence_tokens} tokens; use a smaller data.sequence_tokens or a larger corpus"
            )
        found.append(sequences)
    try:
        rows = [each.rows_per_block for each in found]
        return found, Mixture(rows, [source.weight for source in sources], lanes=lanes, seed=seed)
    except ValueError as error:
        raise ConfigError(f"data.mix: {error}") from error


def order_of(sources: Sequence[Source], data: DataConfig, *, batch_sequences: int, seed: int) -> Mixture:
    """Return the order alone, and leave nothing open; raises as `training_data` does."""
    unstaged = replace(data, fetch=replace(data.fetch, stage_dir=None))  # no shard is wanted for it
    found, mixture = training_data(sources, unstaged, batch_sequences=batch_sequences, seed=seed)
    for each in found:
        each.close()
    return mixture


def check_caps(sources: Sequence[Source], mixture: Mixture, sequences: int) -> None:
    """Raise ConfigError if a run of so many sequences reads a source more often than its epochs_cap."""
    for source, passes in zip(sources, mixture.passes(sequences), strict=True):
        if source.epochs_cap is not None and passes > source.epochs_cap:
            fitting = source.weight * source.epochs_cap / passes
            raise ConfigError(
                f"data.mix: the run reads {source.name} {passes:.2f} times, its epochs_cap is "
                f"{source.epochs_cap:g}; lower its weight to about {fitting:.3g}, or train for fewer steps"
            )


def _name(index: Index) -> str:
    """Return what a data set is called in metrics: its folder, or the one above a folder `data`."""
    parts = [part for part in Path(index.location).parts if part not in {"/", "data", "shards"}]
    return parts[-1] if parts else "data"
