"""Which work there is: the corpus's units and the buckets, decided once and frozen in plan.json.

The plan is a function of the settings and the files, so tasks that start together write the same one;
the first wins, and every later task must agree with it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conf.exits import ConfigError, DatasetError
from data_prep.checksums import check_hash
from data_prep.contamination import DecontaminationConfig, load_evaluation
from data_prep.density import tokens_per_byte
from data_prep.documents import Piece
from data_prep.filters import FilterConfig
from data_prep.index import INDEX
from data_prep.packing import PackingConfig
from data_prep.publish import publish_once
from data_prep.routing import Routing
from data_prep.shards import FORMAT
from data_prep.sources import CorpusConfig, Input, absolute
from data_prep.units import SizedPiece, grouped, pieces_of, text_of_a_unit

PLAN = "plan.json"
SPILL = "spill"
# English web text and prose hold 3.9 to 4.5 bytes per GPT-2 token; only the shards' sizes hang on it.
_BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class ValidationConfig:
    """How much of the corpus is held back."""

    fraction: float  # of the documents, as a slice of the space of their hashes
    tokens: int | None = None  # or so many, about: the fraction is then found by a sample of the corpus

    def __post_init__(self):
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError(f"validation.tokens={self.tokens} is not at least 1; 10000000 is usual")
        if not 0 <= self.fraction < 1:
            raise ConfigError(f"validation.fraction={self.fraction} is not in [0, 1); 0.005 is usual")


@dataclass(frozen=True)
class Settings:
    """Everything that decides the output bytes, but the files themselves."""

    corpus: CorpusConfig
    filters: FilterConfig
    packing: PackingConfig
    validation: ValidationConfig
    decontamination: DecontaminationConfig

    @property
    def evaluation(self) -> tuple[tuple[str, str], ...]:
        """The evaluation sets as (name, absolute path)."""
        sets = self.decontamination.sets
        return tuple((name, absolute(path)) for name, path in sorted(sets.items()))

    def record(self) -> dict[str, Any]:
        """Return the settings as JSON writes them, without the files' places."""
        record = asdict(self)
        for place in ("paths", "suffixes", "expected_documents", "expected_tokens", "checksums"):
            del record["corpus"][place]
        # An index without them stays as it always was.
        for part, key in (("corpus", "name"), ("validation", "tokens")):
            if record[part][key] is None:
                del record[part][key]
        evaluation = load_evaluation(self.evaluation)
        record["decontamination"]["sets"] = {name: evaluation.sha256(name) for name, _ in self.evaluation}
        return record


@dataclass(frozen=True)
class Plan:
    """The frozen plan of one output folder."""

    settings: Mapping[str, Any]
    inputs: tuple[Input, ...]
    evaluation: tuple[tuple[str, str], ...]  # name and path of each evaluation set
    units: tuple[tuple[tuple[int, int, int], ...], ...]  # pieces of a unit: (input, start, stop)
    unit_bytes: tuple[int, ...]  # text in each unit, about
    routing: Routing
    digest: str  # SHA-256 of plan.json: spill files carry it

    @property
    def corpus(self) -> CorpusConfig:
        """The corpus's kind, key and rule for bad text; its paths are in `inputs`."""
        return CorpusConfig(paths=[""], **self.settings["corpus"])

    @property
    def filters(self) -> FilterConfig:
        """The rules for dropping documents."""
        return FilterConfig(**self.settings["filters"])

    @property
    def packing(self) -> PackingConfig:
        """The layout of tokens in shards."""
        return PackingConfig(**self.settings["packing"])

    @property
    def drop_above(self) -> float:
        """The share of a document's 8-grams above which it is contaminated."""
        return self.settings["decontamination"]["drop_above"]

    def pieces(self, unit: int) -> list[tuple[Input, Piece]]:
        """Return the parts of files that a unit reads."""
        return [
            (self.inputs[number], Piece(self.inputs[number].path, start, stop))
            for number, start, stop in self.units[unit]
        ]


def agreed_plan(output: Path, settings: Settings, inputs: list[Input]) -> Plan:
    """Return the output's plan for the corpus's files, made now if there is none.

    Raises ConfigError or DatasetError if the output was planned with other settings or files, or holds
    something else.
    """
    path = output / PLAN
    if not _exists(path):
        if output.exists() and (found := [name for name in (INDEX, SPILL) if (output / name).exists()]):
            raise DatasetError(
                f"{output} holds {found[0]} but no {PLAN}: another data set; choose another output"
            )
        content = _planned(inputs, settings)
        try:
            output.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise ConfigError(
                f"output={output} cannot be a folder: {error.strerror}; choose another"
            ) from None
        publish_once(path, content)
    plan = read_plan(output)
    _refuse_other_settings(output, plan.settings, settings.record())
    _refuse_other_inputs(output, plan.inputs, inputs)
    return plan


def read_plan(output: Path) -> Plan:
    """Return the output's plan; raise DatasetError if there is none, or one for another format."""
    path = output / PLAN
    try:
        content = path.read_bytes()
        raw = json.loads(content)
        version = raw.get("format", 1)
        plan = Plan(
            settings=raw["settings"],
            inputs=tuple(Input(*entry) for entry in raw["inputs"]),
            evaluation=tuple((name, path) for name, path in raw["evaluation"]),
            units=tuple(tuple((n, start, stop) for n, start, stop in unit) for unit in raw["units"]),
            unit_bytes=tuple(raw["unit_bytes"]),
            routing=Routing(**raw["routing"]),
            digest=hashlib.sha256(content).hexdigest(),
        )
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{path} does not exist; run data_prep.prepare output={output} first") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DatasetError(f"{path} is not a plan; choose another output") from None
    if version != FORMAT:
        raise DatasetError(
            f"{path} plans shards of format {version}, this program writes {FORMAT}; "
            f"use another output{_or_anew(output)}"
        )
    return plan


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise ConfigError(f"output={path.parent} cannot be: {error.strerror}; choose another") from None


def spill_folder(output: Path) -> Path:
    """Return the folder of what is between prepare and finalize."""
    return output / SPILL


def _planned(inputs: list[Input], settings: Settings) -> bytes:
    """Return the content of plan.json."""
    if not any(known.bytes for known in inputs):
        raise DatasetError(f"the corpus is empty: {len(inputs)} files of 0 bytes")
    total_bytes = sum(known.bytes for known in inputs)
    unit_bytes = text_of_a_unit(total_bytes)
    pieces: list[SizedPiece] = []
    for number, known in enumerate(inputs):
        found = pieces_of(known, settings.corpus, unit_bytes)
        if known.sha256 and not found:  # no unit will read it: is it meant to hold nothing?
            check_hash(known.path, known.sha256)
        pieces += [(number, start, stop, size) for start, stop, size in found]
    units = grouped(pieces, unit_bytes)
    sizes = [sum(size for *_, size in unit) for unit in units]
    fraction = _validation_fraction(
        settings, sum(sizes), [Piece(inputs[number].path, start, stop) for number, start, stop, _ in pieces]
    )
    record = settings.record()
    record["validation"]["fraction"] = fraction
    record = {
        "format": FORMAT,
        "settings": record,
        "inputs": [[known.path, known.bytes, known.version, known.sha256] for known in inputs],
        "evaluation": settings.evaluation,
        "units": [[(number, start, stop) for number, start, stop, _ in unit] for unit in units],
        "unit_bytes": sizes,
        "routing": asdict(_routing(sum(sizes), settings.packing.shard_tokens, fraction)),
    }
    return json.dumps(record, indent=None, separators=(",", ":")).encode()


def _validation_fraction(settings: Settings, text_bytes: int, pieces: list[Piece]) -> float:
    """Return the share of the documents to hold back; raise ConfigError if it is the whole corpus."""
    wanted = settings.validation.tokens
    if wanted is None:
        return settings.validation.fraction
    tokens = text_bytes * (tokens_per_byte(pieces, settings.corpus) or 1 / _BYTES_PER_TOKEN)
    if wanted >= tokens:
        raise ConfigError(
            f"validation.tokens={wanted} leaves nothing to train on: the corpus has about {tokens:,.0f} "
            "tokens; ask for less"
        )
    return wanted / tokens


def _routing(text_bytes: int, shard_tokens: int, fraction: float) -> Routing:
    """Return as many buckets as give shards of about `shard_tokens`."""
    shards = text_bytes / _BYTES_PER_TOKEN / shard_tokens
    return Routing(
        train_buckets=max(1, round(shards * (1 - fraction))),
        validation_buckets=max(1, round(shards * fraction)) if fraction else 0,
        validation_fraction=fraction,
    )


def _refuse_other_settings(output: Path, planned: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    sampled = "tokens" in asked["validation"]  # the fraction follows from them
    for group in asked:
        for key, value in asked[group].items():
            if sampled and (group, key) == ("validation", "fraction"):
                continue
            if planned.get(group, {}).get(key) != value:
                before = planned.get(group, {}).get(key)
                raise ConfigError(
                    f"{output} was planned with {group}.{key}={before}, not {value}; "
                    f"use the same settings or another output{_or_anew(output)}"
                )


def _refuse_other_inputs(output: Path, planned: tuple[Input, ...], found: list[Input]) -> None:
    if list(planned) == found:
        return
    known = {entry.path: entry for entry in planned}
    different = [entry.path for entry in found if known.pop(entry.path, None) != entry] or list(known)
    raise DatasetError(
        f"{output} was planned from other files: {different[0]} is new, changed or left out; "
        f"use the same files or another output{_or_anew(output)}"
    )


def _or_anew(output: Path) -> str:
    """Return how to begin anew where nothing is finished yet."""
    return "" if (output / INDEX).exists() else f"; or begin anew: rm -r {output / PLAN} {output / SPILL}"
