"""With which settings a run directory goes on: those it began with, and none that would change it.

The config is composed once, when the run begins, and frozen to `config.yaml`; every later attempt
reads that file, so nobody's edit of `conf/` changes a run that is in the queue.
"""

import copy
import hashlib
import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import compose, leaves, number_keys, override_key, typed
from conf.exits import ConfigError, DatasetError, NoCheckpointError, RefusedError
from data_prep.sources import absolute
from pretrain import imported
from pretrain.config import DELIBERATE, SETTLED, TrainConfig, is_free
from pretrain.model import GPTConfig
from pretrain.storage import durable
from pretrain.watching.redaction import redacted

CONFIG = "config.yaml"
IDENTITY = "run.json"
_MOST_BYTES = 1 << 20
# Of a model: what its weights decide. Dropout is the run's own.
_SHAPE = ("layers", "heads", "channels", "context", "vocabulary", "padded_vocabulary")


@dataclass(frozen=True)
class Identity:
    """What makes two attempts the same run."""

    run_id: str
    began_at: float  # Unix time
    config_sha256: str
    dataset_fingerprint: str

    @property
    def borne(self) -> dict[str, str]:
        """Return what every checkpoint of the run bears."""
        return {
            "run_id": self.run_id,
            "config_sha256": self.config_sha256,
            "dataset_fingerprint": self.dataset_fingerprint,
        }


def settled(overrides: Sequence[str]) -> DictConfig:
    """Return the settings of the run that the command line means: frozen ones first.

    In a directory that has begun, settings that no weight depends on may be given anew; others must
    be what they were. Without `experiment=`, what is left out is the run's own. Raises ConfigError, naming
    up to three that differ, if not.
    """
    composed = compose("train", overrides)
    _refuse_secrets(composed)
    if OmegaConf.is_missing(composed, "run_dir"):
        raise ConfigError("run_dir has no value; add run_dir=DIRECTORY to the command")
    frozen = Path(str(composed.run_dir)) / CONFIG
    given = {override_key(each) for each in overrides}
    # Absolute, because the next attempt may start in another directory.
    if composed.init_from is not None:
        composed.init_from = str(Path(str(composed.init_from)).resolve())
    for files in (composed.evaluation.files, composed.evaluation.shots):
        for name, path in files.items() if isinstance(files, DictConfig) else ():
            files[name] = absolute(str(path))
    if not frozen.exists():
        if composed.init_from is not None:
            _take_shape(composed, asdict(_initial_shape(Path(composed.init_from))), given)
        return composed
    saved = _load(frozen)
    if not all(isinstance(saved.get(group), DictConfig) for group in ("batch", "data", "model")):
        raise ConfigError(f"{frozen} is not a run's own config; use another run_dir")
    if composed.init_from is not None and composed.init_from == saved.get("init_from"):
        _take_shape(composed, OmegaConf.to_container(saved.model), given)
    if saved.data.get("lanes") is None:  # a run of an earlier version: one for each sequence of its batch
        saved.data.lanes = saved.batch.tokens // saved.data.sequence_tokens
    if "experiment" in given:  # a whole command; what it leaves out is the experiment's or a default
        _compare(saved, composed, composed.run_dir, given)
        for key in SETTLED:
            OmegaConf.update(composed, key, OmegaConf.select(saved, key))
        return composed
    asked = copy.deepcopy(saved)
    for key in given:
        OmegaConf.update(asked, key, OmegaConf.select(composed, key))
    _compare(saved, asked, composed.run_dir, given)
    return asked


def freeze(raw: DictConfig, run_dir: Path, dataset_fingerprint: str) -> Identity:
    """Write the settings and the identity of a new run; return the identity of one that has begun.

    Under the lease. Raises DatasetError if the run began on other data.
    """
    path = run_dir / IDENTITY
    if path.exists():
        identity = Identity(**json.loads(path.read_text()))
        if identity.dataset_fingerprint != dataset_fingerprint:
            raise DatasetError(
                f"{run_dir} was begun on data set {identity.dataset_fingerprint[:12]}…, data.index now names "
                f"{dataset_fingerprint[:12]}…; point data.index at the run's own data or use another run_dir"
            )
        return identity
    identity = Identity(secrets.token_hex(8), time.time(), config_sha256(raw), dataset_fingerprint)
    with durable.opened_directory(run_dir) as directory:
        text = OmegaConf.to_yaml(raw, resolve=True)
        durable.replace_file(CONFIG, text.encode(), within=directory, nonce=identity.run_id)
        durable.replace_file(
            IDENTITY, json.dumps(asdict(identity), indent=1).encode(), within=directory, nonce=identity.run_id
        )
    return identity


def is_run(folder: Path) -> bool:
    """Say whether a run has begun in `folder`."""
    return (folder / CONFIG).exists() and (folder / IDENTITY).exists()


def begun(run_dir: Path) -> tuple[TrainConfig, Identity]:
    """Return the settings and the identity of a run that has begun; ConfigError if none has."""
    if not is_run(run_dir):
        raise ConfigError(
            f"{run_dir} is not a run directory (no {CONFIG}); give the run_dir of pretrain.train"
        )
    raw = _load(run_dir / CONFIG)
    return typed(TrainConfig, raw), Identity(**json.loads((run_dir / IDENTITY).read_text()))


def check_resume(mode: str, run_dir: Path, has_trained: bool) -> None:
    """Hold `resume` against what is there: `must` needs a run, `never` refuses one."""
    if mode == "must" and not has_trained:
        raise NoCheckpointError(f"resume=must, but {run_dir} holds no checkpoint; use resume=auto to begin")
    if mode == "never" and has_trained:
        raise RefusedError(f"resume=never, but {run_dir} has trained; use another run_dir, or resume=auto")


def config_sha256(raw: DictConfig) -> str:
    """Return the hash of every setting on which the weights depend."""
    fixed = {key: value for key, value in leaves(raw) if not is_free(key)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, default=str).encode()).hexdigest()


def _initial_shape(source: Path) -> GPTConfig:
    """Return the shape of the model that a run begins with: that of a run, or of a Hugging Face folder."""
    return begun(source)[0].model if is_run(source) else imported.shape(source)


def _take_shape(composed: DictConfig, shape: Any, given: set[str]) -> None:
    """Set the model's sizes to `shape`. Raises ConfigError if the command line asks for another."""
    for name in _SHAPE:
        if f"model.{name}" in given and composed.model[name] != shape[name]:
            raise ConfigError(
                f"model.{name}={composed.model[name]}, but init_from={composed.init_from} has {shape[name]}; "
                f"leave model.{name} out"
            )
        composed.model[name] = shape[name]


def _refuse_secrets(composed: DictConfig) -> None:
    """Raise ConfigError if a setting holds a secret: settings are kept, shown and sent."""
    taken = re.findall(r"\$\{oc\.env:\s*(\w+)", OmegaConf.to_yaml(composed))
    named = [name for name in taken if redacted({name: "text"}) != {name: "text"}]
    try:
        plain = {
            key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in leaves(composed)
        }
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    numbers = number_keys(TrainConfig)  # a text in the place of one is refused for what it is
    held = [
        key for key, value in plain.items() if key not in numbers and redacted({key: value}) != {key: value}
    ]
    for name in [*named, *held]:
        raise ConfigError(
            f"{name} looks like a secret, and settings are written to {CONFIG} and shown; "
            "leave it to the environment variable that its library reads"
        )


def _load(path: Path) -> DictConfig:
    text = path.read_bytes()
    if len(text) > _MOST_BYTES:
        raise ConfigError(f"{path} is {len(text)} bytes long; it is not a run's own config")
    try:
        # A page of aliases can stand for a billion words, and the file that we wrote has none.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise ConfigError(f"{path} has YAML aliases; it is not a run's own config")
        raw = OmegaConf.create(text.decode())
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} cannot be read: {reason}; restore it from a copy") from None
    if not isinstance(raw, DictConfig):
        raise ConfigError(f"{path} holds no settings; restore it from a copy")
    return raw


def _compare(saved: DictConfig, composed: DictConfig, run_dir: str, given: set[str]) -> None:
    """Refuse settings that differ. One that is newer than the run had then what is its default now."""
    before, now = dict(leaves(saved)), dict(leaves(composed))
    if now.keys() - before.keys():
        before = {**dict(leaves(compose("train", []))), **before}
    changed = [
        key
        for key in sorted(before | now)
        if not is_free(key)
        and not (key in DELIBERATE and key in given)
        and not (key in SETTLED and now.get(key) is None)
        and before.get(key) != now.get(key)
    ]
    if changed:
        listed = ", ".join(f"{key} {before.get(key)} → {now.get(key)}" for key in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            f"{run_dir} was begun with other settings: {listed}{more}; leave them out to go on with the "
            "run's own, or use another run_dir"
        )
