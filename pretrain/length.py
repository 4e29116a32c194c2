"""How many steps a run is: given as such, or as tokens, or as passes over the data."""

import math
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from conf import typed
from conf.exits import ConfigError
from pretrain import frozen
from pretrain.batch import BatchConfig, batch_sizes
from pretrain.stream.sources import DataConfig, opened_sources, order_of


def settle(raw: DictConfig) -> None:
    """Write the number of steps of a new run to `raw`, if it is given in another way.

    Raises ConfigError if it is given in two ways, or in none.
    """
    if (Path(str(raw.run_dir)) / frozen.CONFIG).exists():
        return  # it was settled when the run began, for the batch that it had then
    data = typed(DataConfig, raw.data)
    given = {
        "steps": None if OmegaConf.is_missing(raw, "steps") else raw.steps,
        "tokens": OmegaConf.select(raw, "tokens"),
        "data.epochs": data.epochs,
    }
    told = [name for name, value in given.items() if value is not None]
    if not told:
        raise ConfigError(
            f"steps has no value, and no run is in {raw.run_dir} to go on with; add experiment=NAME, or "
            "steps=…, tokens=… or data.epochs=…"
        )
    if len(told) > 1:
        raise ConfigError(f"{told[0]} and {told[1]} both say how long the run is; keep one")
    if given["steps"] is None:
        batch = typed(BatchConfig, raw.batch)
        tokens = given["tokens"] or _tokens(data, batch.tokens)
        sequences = math.ceil(tokens / data.sequence_tokens)
        raw.steps = batch_sizes(batch, data.sequence_tokens).steps(sequences)


def _tokens(data: DataConfig, batch_tokens: int) -> int:
    """Return how many tokens a run trains on until it has read its data `data.epochs` times."""
    assert data.epochs is not None
    sources = opened_sources(data)
    batch_sequences = max(1, batch_tokens // data.sequence_tokens)
    mixture = order_of(sources, data, batch_sequences=batch_sequences, seed=0)
    # Of a mixture, until the source that is read fastest has been read so often.
    sequences = min(
        data.epochs * order.sequences_per_epoch * mixture.lanes / quota
        for order, quota in zip(mixture.orders, mixture.quotas, strict=True)
    )
    return math.ceil(sequences) * data.sequence_tokens
