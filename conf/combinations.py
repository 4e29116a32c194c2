"""Which combinations a command line with several values for a setting stands for.

`schedule.peak=1e-3,3e-4 seed=range(3)` is six: every value of one with every value of the other, the
last setting varying fastest, as Hydra's own `--multirun` does it.
"""

from collections.abc import Sequence
from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from conf.exits import ConfigError


def combinations(overrides: Sequence[str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the overrides with one value, and the settings of each combination of the others.

    combinations(["steps=9", "seed=1,2"])  →  ["steps=9"], [("seed=1",), ("seed=2",)]
    """
    fixed, axes = [], []
    for override in overrides:
        values = _values(override)
        if values is None:
            fixed.append(override)
        else:
            axes.append(values)
    return fixed, list(product(*axes))


def _values(override: str) -> list[str] | None:
    """Return the settings that an override with several values stands for; None if it has but one."""
    try:
        parsed = OverridesParser.create().parse_override(override)
        if not parsed.is_sweep_override():
            return None
        return [f"{parsed.get_key_element()}={value}" for value in parsed.sweep_string_iterator()]
    except HydraException as error:
        raise ConfigError(
            f"cannot read {override} as values to sweep; write key=A,B,C or key=range(START,STOP)"
        ) from error
