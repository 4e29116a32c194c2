"""The one door from YAML and command-line overrides to frozen, typed dataclasses."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.exits import ConfigError

Config = TypeVar("Config")

DIRECTORY = Path(__file__).resolve().parent
# Texts that may be empty. Of any other setting, most of all a path, nothing is a mistake: "" would be the
# current directory, and is what a shell makes of a variable that is not set.
_MAY_BE_EMPTY = {"prompt", "prompts", "examples", "stop"}


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Return `conf/<name>.yaml` with its groups and the command line's `key=value` overrides.

    Raises ConfigError, naming the nearest key or the choices, for an override that fits nothing, and for
    a setting that is empty.
    """
    with initialize_config_dir(config_dir=str(DIRECTORY), version_base=None):
        try:
            composed = hydra_compose(name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            known = hydra_compose(name)
            raise ConfigError(_explained(error, name, known)) from error
        except ValueError as error:  # Hydra's own, for a group that is given no name, as in model=null
            odd = next((each for each in overrides if not _names_an_option(each)), "")
            raise ConfigError(f"{odd}: a group takes the name of one of its options") from error
    _refuse_empty(OmegaConf.to_container(composed))
    return composed


def typed(schema: type[Config], raw: DictConfig) -> Config:
    """Return `raw` as a frozen `schema` dataclass, checked by the dataclasses' own `__post_init__`.

    Raises ConfigError for an unknown key, a value of the wrong type, a missing value, or a value
    that a `__post_init__` refuses.
    """
    if missing := sorted(OmegaConf.missing_keys(raw)):
        raise ConfigError(f"{missing[0]} has no value; add {missing[0]}=… to the command")
    structured = _writable(OmegaConf.structured(schema))
    for key in structured.keys() & raw.keys():
        node = structured._get_node(key)
        optional = isinstance(node, DictConfig) and node._is_none() and raw[key] is None
        if isinstance(node, DictConfig) and not isinstance(raw[key], DictConfig) and not optional:
            raise ConfigError(f"{key} is a group of settings, not {raw[key]!r}; write {key}.NAME=…")
    try:
        return cast(Config, OmegaConf.to_object(OmegaConf.merge(structured, raw)))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        text = str(error).splitlines()[0]
        if "not in" in text:
            text = f"unknown key '{key}'{_nearest(str(key), structured)}"
            raise ConfigError(text) from error
        raise ConfigError(f"{key}: {text}" if key else text) from error
    except ValueError as error:  # a dataclass's own check
        raise ConfigError(str(error)) from error


def option(group: str, name: str) -> DictConfig:
    """Return `conf/<group>/<name>.yaml` alone. Raises ConfigError, naming the choices, if there is none."""
    path = DIRECTORY / group / f"{name}.yaml"
    choices = sorted(path.stem for path in path.parent.glob("*.yaml"))
    if name not in choices:
        raise ConfigError(f"{group} has no option '{name}'; choose one of: {', '.join(choices)}")
    return cast(DictConfig, OmegaConf.load(path))


def leaves(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting as (dotted key, value)."""
    for key in config:
        value = config._get_node(key)
        if isinstance(value, DictConfig) and not value._is_none():
            yield from leaves(value, f"{prefix}{key}.")
        elif (
            isinstance(value, ListConfig)
            and not value._is_none()
            and any(isinstance(each, DictConfig) for each in value)
        ):
            for number, each in enumerate(value):
                yield from leaves(each, f"{prefix}{key}.{number}.")
        else:
            yield f"{prefix}{key}", None if OmegaConf.is_missing(config, key) else config[key]


def override_key(override: str) -> str:
    """Return the dotted key that an override sets, without Hydra's `+`, `++` and `~`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def _refuse_empty(value: Any, key: str = "") -> None:
    """Raise ConfigError for a setting, or a part of one, that is empty text."""
    if isinstance(value, dict):
        for name, each in value.items():
            _refuse_empty(each, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            _refuse_empty(each, key)
    elif isinstance(value, str) and not value.strip() and key.rpartition(".")[2] not in _MAY_BE_EMPTY:
        raise ConfigError(
            f"{key} is empty (a shell's variable that is not set?); give it a value, or leave it out"
        )


def _names_an_option(override: str) -> bool:
    """Say whether an override is of a plain setting, or chooses what a group has."""
    group, _, option = override.partition("=")
    return not (DIRECTORY / group).is_dir() or (DIRECTORY / group / f"{option}.yaml").is_file()


def _writable(node: Any) -> Any:
    """Lift the read-only flag that OmegaConf puts on every frozen dataclass, at every depth."""
    if isinstance(node, DictConfig):
        OmegaConf.set_readonly(node, None)
        for key in node:
            if not OmegaConf.is_missing(node, key):
                _writable(node[key])
    return node


def _explained(error: Exception, name: str, known: DictConfig) -> str:
    """Put Hydra's many-line message into one line with the way out."""
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        return f"unknown key '{found[1]}' for {name}{_nearest(found[1], known)}"
    if found := re.search(r"Could not find '([^']+)'", text):
        group, _, option = found[1].rpartition("/")
        choices = sorted(path.stem for path in (DIRECTORY / group).glob("*.yaml"))
        return f"{group} has no option '{option}'; choose one of: {', '.join(choices)}"
    if "mismatched input" in text or "token recognition" in text or "missing EQUAL" in text:
        return f"cannot read the override: {text.splitlines()[0]}; write key=value"
    return " ".join(text.split())


def _nearest(key: str, known: DictConfig) -> str:
    """Return '; did you mean …?' for the known key, or its last part, that is closest to `key`."""
    names = [name for name, _ in leaves(known)] + [str(group) for group in known]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    if not close:
        by_last = {name.rpartition(".")[2]: name for name in names}
        last = difflib.get_close_matches(key.rpartition(".")[2], by_last, n=1, cutoff=0.6)
        close = [by_last[name] for name in last]
    return f"; did you mean '{close[0]}'?" if close else "; see --cfg job for all keys"
