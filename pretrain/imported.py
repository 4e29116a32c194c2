"""Which GPT-2 a Hugging Face folder holds: its shape, and its weights under our names.

Folders that transformers writes, that `pretrain.export` writes, and OpenAI's own on the hub
(`openai-community/gpt2`, whose names lack the prefix) are read; nothing in them is run, and no pickle is
opened. A model that computes anything but a GPT-2 is refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from conf.exits import ConfigError, CorruptError
from pretrain.model import GPT, GPTConfig, hugging_face_names

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_PREFIX = "transformer."
_TENSOR_CORES = 64  # the vocabulary is padded to a multiple of it
# What another value of these settings of transformers' GPT2Config would compute is not a GPT-2. Those
# with None have a value that says the same as leaving them out.
_REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", None),
    "layer_norm_epsilon": (1e-5, None),
    "scale_attn_weights": (True, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "tie_word_embeddings": (True, None),
    "add_cross_attention": (False, None),
}
_SIZES = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
_LARGEST_SIZE = 2**20  # no GPT-2's is; products of larger ones overflow a tensor's shape


def shape(folder: Path) -> GPTConfig:
    """Return the shape of the folder's model, without dropout. Raises ConfigError if it is no GPT-2."""
    path = folder / _CONFIG
    found = _settings(path)
    for name, values in _REQUIRED.items():
        if found.get(name) not in values:
            raise ConfigError(
                f"{path}: {name} is {found.get(name)!r}, a GPT-2 has {values[0]!r}; choose another model"
            )
    sizes = {name: _size(path, found, name) for name in _SIZES}
    if found.get("n_inner") not in (None, 4 * sizes["n_embd"]):
        raise ConfigError(f"{path}: n_inner is {found['n_inner']!r}, a GPT-2 has 4 × n_embd; choose another")
    try:
        return GPTConfig(
            layers=sizes["n_layer"],
            heads=sizes["n_head"],
            channels=sizes["n_embd"],
            context=sizes["n_positions"],
            vocabulary=sizes["vocab_size"],
            padded_vocabulary=-(-sizes["vocab_size"] // _TENSOR_CORES) * _TENSOR_CORES,
        )
    except ValueError as error:
        raise ConfigError(f"{path} describes no GPT-2 ({error}); choose another model") from error


def _settings(path: Path) -> dict[str, Any]:
    """Return what `path` holds. Raises ConfigError if that is no JSON object."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{path.parent} holds no {_CONFIG}; give a Hugging Face folder, as pretrain.export writes it"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON; export or download the model again") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no JSON object; export or download the model again")
    return found


def _size(path: Path, found: Mapping[str, Any], name: str) -> int:
    if name not in found:
        raise ConfigError(f"{path}: {name} is missing; export or download the model again")
    value = found[name]
    if type(value) is not int or not 1 <= value <= _LARGEST_SIZE:
        raise ConfigError(
            f"{path}: {name} is {value!r}, not a whole number above 0 (at most {_LARGEST_SIZE:,}); "
            "choose another model"
        )
    return value


def weights(folder: Path, config: GPTConfig) -> dict[str, Tensor]:
    """Return the folder's tensors under our names and in our shapes, fp32, the padding 0.

    Raises ConfigError if there are none, CorruptError if one is missing, has another shape, or is
    unknown, or if the head is not tied.
    """
    held = _tensors(folder)
    found: dict[str, Tensor] = {}
    for ours, theirs, transposed in hugging_face_names(config):
        tensor = held.pop(theirs, None)
        if tensor is None:
            raise CorruptError(f"{folder}: the tensor {theirs} is missing; export or download it again")
        found[ours] = (tensor.t() if transposed else tensor).float().contiguous()
    head = held.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head.float(), found["wte.weight"]):
        raise CorruptError(f"{folder}: the head is not tied to the embedding; this is no GPT-2")
    unknown = [name for name in held if not name.endswith((".attn.bias", ".attn.masked_bias"))]  # masks
    if unknown:
        raise CorruptError(f"{folder}: the tensor {min(unknown)} belongs to no GPT-2")
    embedding = found["wte.weight"]
    if embedding.ndim != 2 or len(embedding) != config.vocabulary:
        raise CorruptError(
            f"{folder}: wte.weight has shape {tuple(embedding.shape)}, {_CONFIG} means "
            f"{config.vocabulary:,} rows"
        )
    padding = config.padded_vocabulary - len(embedding)
    found["wte.weight"] = torch.cat([embedding, embedding.new_zeros(padding, embedding.shape[1])])
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in GPT(config).named_parameters()}
    for name, tensor in found.items():
        if tensor.shape != shapes[name]:
            raise CorruptError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, {_CONFIG} means {tuple(shapes[name])}"
            )
    return found


def load(folder: Path, device: torch.device) -> GPT:
    """Return the folder's model, fp32, in evaluation mode. Raises as `shape` and `weights` do."""
    config = shape(folder)
    with torch.device("meta"):
        model = GPT(config)
    model.load_state_dict(weights(folder, config), assign=True)
    return model.to(device).eval()


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Return every tensor, under GPT2LMHeadModel's names."""
    held: dict[str, Tensor] = {}
    for path in files(folder):
        try:
            with safetensors.safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a mapping)
                    plain = key.startswith((_PREFIX, "lm_head."))
                    held[key if plain else _PREFIX + key] = file.get_tensor(key)
        except safetensors.SafetensorError as error:
            raise CorruptError(f"{path} is damaged ({error}); export or download it again") from error
    return held


def files(folder: Path) -> list[Path]:
    """Return the files of the folder's weights. Raises ConfigError if one is missing."""
    index = folder / f"{_WEIGHTS}.index.json"
    names = _names(index) if index.exists() else [_WEIGHTS]
    found = [folder / Path(name).name for name in names]  # of the folder itself, whatever the index says
    for path in found:
        if not path.exists():
            raise ConfigError(
                f"{folder} holds no {path.name}; export the model again, or convert it to safetensors"
            )
    return found


def _names(index: Path) -> list[str]:
    """Return the names of the files that the weights are divided among."""
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        if names and all(isinstance(name, str) for name in names):
            return sorted(names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise CorruptError(f"{index} names no files of weights; export or download it again")
