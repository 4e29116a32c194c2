"""Prove from a run's ledger that it lost no sequence and took none twice.

python -m pretrain.check_ledger run_dir=RUN [index=OTHER/index.json]
python -m pretrain.check_ledger run_dir=RUN mix=[A/index.json,B/index.json]    of a mixture that was moved

Reads `ledger.jsonl` and the data set's index, and works the order of training out anew: every step
must begin where the one before ended, detours apart, the hashes of what its ranks consumed must be
those of the order, and no place of the data may come twice in an epoch. No shard is read. Exit code 0
if all of it holds, else 13.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from conf import compose, typed
from conf.command import run as run_command
from conf.exits import ConfigError, CorruptError, DatasetError
from pretrain import frozen
from pretrain.config import TrainConfig
from pretrain.stream import ledger
from pretrain.stream.data import places_digest
from pretrain.stream.detours import Detour
from pretrain.stream.ledger import Account, Chain, Entry, Seal
from pretrain.stream.mixing import Mixture, MixtureWalk
from pretrain.stream.sources import DataConfig, fingerprint, opened_sources, order_of

_AT_ONCE = 1 << 16  # sequences whose places are worked out together
_MOST_EPOCHS = 1 << 20


@dataclass(frozen=True)
class CheckLedgerConfig:
    """Which run."""

    run_dir: str
    index: str | None = None  # where its data set lies now; None: where it lay
    mix: list[str] | None = None  # where those of its mixture lie now, in the order of its data.mix


def main(overrides: list[str]) -> None:
    """Print what holds; raise CorruptError at the first thing that does not."""
    config = typed(CheckLedgerConfig, compose("check_ledger", overrides))
    run_dir = Path(config.run_dir)
    settings, identity = frozen.begun(run_dir)
    if not (run_dir / ledger.NAME).exists():
        raise ConfigError(f"{run_dir} has no {ledger.NAME} yet; train first")
    data = moved(settings.data, config)
    mixture = _order(replace(settings, data=data), identity.dataset_fingerprint)
    records = ledger.records(run_dir)
    account = ledger.account(each for _, each in records if isinstance(each, Entry | Detour))
    check_account(account)
    check_places([each for _, each in records if isinstance(each, Entry)], mixture)
    sealed = check_seals(records, mixture)
    twice = repeated(mixture, account.sequences + account.passed_over)
    if twice:
        raise CorruptError(f"{run_dir}: {twice} places of the data come twice in an epoch")
    print(
        f"{run_dir}: {account.steps:,} steps consumed {account.sequences:,} sequences: 0 lost, 0 duplicated, "
        f"{account.passed_over:,} passed over by detours, "
        f"{len(ledger.skipped(run_dir))} skipped as declared; "
        f"{account.retaken_steps:,} steps were taken again, all alike; "
        f"{sealed:,} steps of all ranks agree with the order"
    )


def moved(data: DataConfig, config: CheckLedgerConfig) -> DataConfig:
    """Return which data a run reads, from where it lies now; raise ConfigError if that is no place for it."""
    if data.synthetic is not None and (config.index or config.mix):
        raise ConfigError("the run reads data.synthetic, which lies nowhere; leave out index= and mix=")
    if data.mix:
        if config.index is not None or (config.mix is not None and len(config.mix) != len(data.mix)):
            names = ", ".join(each.name or each.index for each in data.mix)
            raise ConfigError(f"the run mixes {names}; give mix=[…] with the place of each, in that order")
        places = config.mix or data.indices
        return replace(data, mix=[replace(s, index=p) for s, p in zip(data.mix, places, strict=True)])
    if config.mix is not None:
        raise ConfigError("the run reads a single data set; give its place as index=…/index.json")
    return replace(data, index=config.index or data.index)


def check_account(account: Account) -> None:
    """Raise CorruptError if the steps do not follow each other, or a retaken one took something else."""
    wrong = [
        f"{count:,} {what}"
        for count, what in (
            (account.lost, "sequences lost"),
            (account.duplicated, "sequences taken twice"),
            (account.changed_steps, "steps that took something else when they were taken again"),
        )
        if count
    ]
    if wrong:
        raise CorruptError(f"the ledger shows {', '.join(wrong)}")


def check_places(entries: list[Entry], mixture: Mixture) -> None:
    """Raise CorruptError at the first step of which rank 0 did not consume what the order says."""
    walk = MixtureWalk(mixture)
    for entry in entries:
        if _digest(walk, mixture, entry.first, entry.share) != entry.places:
            raise CorruptError(
                f"step {entry.step} consumed something else than sequences {entry.first} and on"
            )


def check_seals(records: list[tuple[int, ledger.Record]], mixture: Mixture) -> int:
    """Return how many steps all ranks have sealed; raise CorruptError if one consumed something else."""
    walk, since, sealed = MixtureWalk(mixture), list[Entry](), 0
    attempt = -1
    for number, each in records:
        if number != attempt:
            attempt, since = number, []
        if isinstance(each, Entry):
            since.append(each)
        elif isinstance(each, Seal):
            for rank, told in enumerate(each.ranks):
                chain = Chain()
                for entry in since:
                    chain.add(_digest(walk, mixture, entry.first + rank * entry.share, entry.share))
                if chain.told() != told:
                    raise CorruptError(
                        f"rank {rank} consumed something else than the order says in the steps "
                        f"{since[0].step if since else each.sealed} to {each.sealed}"
                    )
            sealed += len(since)
            since = []
    return sealed


def repeated(mixture: Mixture, sequences: int) -> int:
    """Return how many of a run's first sequences are at a place that another one is at, too."""
    walk, keys = MixtureWalk(mixture), np.empty(sequences, np.int64)
    # One number for each place: source, epoch, block and row as its digits.
    sizes = (len(mixture.orders), _MOST_EPOCHS)
    sizes += (max(order.blocks for order in mixture.orders), max(order.longest for order in mixture.orders))
    for first in range(0, sequences, _AT_ONCE):
        places = walk.places(first, min(_AT_ONCE, sequences - first))
        keys[first : first + len(places)] = np.ravel_multi_index(tuple(places.T), sizes)
    return sequences - len(np.unique(keys))


def _digest(walk: MixtureWalk, mixture: Mixture, first: int, count: int) -> str:
    return places_digest(walk.places(first, count), single=len(mixture.orders) == 1)


def _order(settings: TrainConfig, recorded: str) -> Mixture:
    """Return the order of a run, after making sure that the data is the one it was begun with."""
    sources = opened_sources(settings.data)
    if fingerprint(sources) != recorded:
        raise DatasetError(
            f"the run was begun on data set {recorded[:12]}…, this is {fingerprint(sources)[:12]}…; give "
            "index= that of the run"
        )
    batch = settings.batch.tokens // settings.data.sequence_tokens
    return order_of(sources, settings.data, batch_sequences=batch, seed=settings.seed)


if __name__ == "__main__":
    run_command(main, name="pretrain.check_ledger", config="check_ledger", usage=__doc__)
