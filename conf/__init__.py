"""The one door from YAML and command-line overrides to frozen, typed dataclasses."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any, TypeVar, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import explained
from conf.exits import ConfigError
from conf.folders import DIRECTORY as DIRECTORY
from conf.folders import options, search_path

Config = TypeVar("Config")

# Texts that may be empty. Of any other setting, most of all a path, nothing is a mistake: "" would be the
# current directory, and is what a shell makes of a variable that is not set.
_MAY_BE_EMPTY = {"prompt", "prompts", "examples", "stop"}


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Return `conf/<name>.yaml` with its groups and the command line's `key=value` overrides.

    Raises ConfigError, naming the nearest key or the choices, for an override that fits nothing, and for
    a setting that is empty.
    """
    own = search_path()
    with initialize_config_dir(config_dir=str(DIRECTORY), version_base=None):
        try:
            composed = hydra_compose(name, overrides=[*own, *overrides])
        except (HydraException, OmegaConfBaseException) as error:
            known = hydra_compose(name, overrides=[*own, *(each for each in overrides if _chooses(each))])
            raise ConfigError(explained.refused(error, name, _names(known))) from error
        except ValueError as error:  # Hydra's own, for a group that is given no name, as in model=null
            odd = next((each for each in overrides if not _names_an_option(each)), "")
            group, _, option = odd.partition("=")
            raise ConfigError(explained.no_option(group, option)) from error
    refuse_empty(OmegaConf.to_container(composed))
    return composed


def typed(schema: type[Config], raw: DictConfig) -> Config:
    """Return `raw` as a frozen `schema` dataclass, checked by the dataclasses' own `__post_init__`.

    Raises ConfigError for an unknown key, a value of the wrong type, a missing value, or a value
    that a `__post_init__` refuses.
    """
    if missing := sorted(OmegaConf.missing_keys(raw)):
        raise ConfigError(f"{missing[0]} has no value; add {missing[0]}=… to the command")
    structured = _writable(OmegaConf.structured(schema))
    raw = _with_lists(structured, raw)
    for key in structured.keys() & raw.keys():
        node = structured._get_node(key)
        optional = isinstance(node, DictConfig) and node._is_none() and raw[key] is None
        if isinstance(node, DictConfig) and not isinstance(raw[key], DictConfig) and not optional:
            raise ConfigError(f"{key} is a group of settings, not {raw[key]!r}; write {key}.NAME=…")
    try:
        return cast(Config, OmegaConf.to_object(OmegaConf.merge(structured, raw)))
    except OmegaConfBaseException as error:
        inside = raw._get_full_key(None)  # of a part, where it stands in the whole
        key = ".".join(filter(None, (inside, getattr(error, "full_key", None))))
        text = str(error).splitlines()[0]
        if "not in" in text:
            known = [f"{inside}.{each}" if inside else each for each in _names(structured)]
            raise ConfigError(f"unknown key '{key}'{explained.nearest(key, known)}") from error
        raise ConfigError(explained.mistyped(key, text) if key else text) from error
    except ValueError as error:  # a dataclass's own check
        raise ConfigError(str(error)) from error


def option(group: str, name: str) -> DictConfig:
    """Return `conf/<group>/<name>.yaml` alone. Raises ConfigError, naming the choices, if there is none."""
    choices = options(group)
    if name not in choices:
        raise ConfigError(explained.no_option(group, name))
    return cast(DictConfig, OmegaConf.load(choices[name]))


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


def number_keys(schema: Any, prefix: str = "") -> set[str]:
    """Return the dotted keys of a schema's settings that are a number, or true or false."""
    found = set[str]()
    structured = OmegaConf.structured(schema) if isinstance(schema, type) else schema
    for key in structured:
        node = structured._get_node(key)
        if isinstance(node, IntegerNode | FloatNode | BooleanNode):
            found.add(f"{prefix}{key}")
        elif isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
            found |= number_keys(node, f"{prefix}{key}.")
    return found


def override_key(override: str) -> str:
    """Return the dotted key that an override sets, without Hydra's `+`, `++` and `~`."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def refuse_empty(value: Any, key: str = "") -> None:
    """Raise ConfigError for a setting, or a part of one, that is empty text."""
    if isinstance(value, dict):
        for name, each in value.items():
            refuse_empty(each, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            refuse_empty(each, key)
    elif isinstance(value, str) and not value.strip() and key.rpartition(".")[2] not in _MAY_BE_EMPTY:
        raise ConfigError(
            f"{key} is empty (a shell's variable that is not set?); give it a value, or leave it out"
        )


def _names(config: DictConfig) -> list[str]:
    """Return every dotted key, and every group at the top."""
    return [*(name for name, _ in leaves(config)), *map(str, config)]


def _with_lists(structured: DictConfig, raw: DictConfig) -> DictConfig:
    """Return the settings with a single text or number, where a list of such is wanted, as a list of one."""
    raw = copy.deepcopy(raw)
    for key in structured.keys() & raw.keys():
        node, value = structured._get_node(key), raw._get_node(key)
        if isinstance(node, DictConfig) and isinstance(value, DictConfig):
            if not (node._is_none() or node._is_missing() or value._is_none()):
                OmegaConf.update(raw, str(key), _with_lists(node, value), merge=False)
        elif (
            isinstance(node, ListConfig)
            and not is_dataclass(node._metadata.element_type)
            and isinstance(raw[key], str | int | float)
        ):
            OmegaConf.update(raw, str(key), [raw[key]], merge=False)
    return raw


def _chooses(override: str) -> bool:
    """Say whether an override names what a group has."""
    group, _, option = override.partition("=")
    return option in options(group)


def _names_an_option(override: str) -> bool:
    """Say whether an override is of a plain setting, or chooses what a group has."""
    group, _, option = override.partition("=")
    return not (choices := options(group)) or option in choices


def _writable(node: Any) -> Any:
    """Lift the read-only flag that OmegaConf puts on every frozen dataclass, at every depth."""
    if isinstance(node, DictConfig):
        OmegaConf.set_readonly(node, None)
        for key in node:
            if not OmegaConf.is_missing(node, key):
                _writable(node[key])
    return node
