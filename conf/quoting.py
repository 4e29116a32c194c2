"""How any text is written as the value of an override, so that Hydra reads it back as it was."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from conf import override_key, refuse_empty
from conf.exits import ConfigError


def quoted(value: object) -> str:
    r"""Return a path or another text in quotes, with what Hydra needs before those within it.

    quoted("/it's/here")  →  '/it\'s/here'
    """
    return QuotedString(str(value), Quote.single).with_quotes()


def value_of(key: str, overrides: Sequence[str]) -> str | None:
    """Return what the last override of `key` sets it to, as text; None if there is none."""
    found = [each for each in overrides if override_key(each) == key]
    if not found:
        return None
    try:
        value = str(OverridesParser.create().parse_override(found[-1]).value())
    except HydraException as error:
        raise ConfigError(
            f"cannot read {found[-1]}; quote the value for Hydra, and the whole for the shell: \"{key}='…'\""
        ) from error
    refuse_empty(value, key)
    return value
