"""From a Hugging Face folder and back: what must agree to the bit, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from conf.exits import ConfigError, CorruptError, UserError
from pretrain import imported
from pretrain.export import hugging_face_config, hugging_face_weights
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.optim import AdamWConfig, adamw

transformers = pytest.importorskip("transformers")

SHAPES = [
    GPTConfig(layers=2, heads=2, channels=32, context=16, vocabulary=200, padded_vocabulary=256),
    GPTConfig(layers=3, heads=4, channels=48, context=24, vocabulary=301, padded_vocabulary=320),
    GPTConfig(layers=1, heads=1, channels=16, context=40, vocabulary=128, padded_vocabulary=128),
]
RATE = 1e-3


def randomised(config: GPTConfig, seed: int = 1) -> GPT:
    """Return a model whose every tensor is random, so that no bias or scale hides behind 0 or 1."""
    model = GPT(config)
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.wte.weight[config.vocabulary :].zero_()
    return model


def written(model: GPT, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hugging_face_config(model.config)))
    safetensors.torch.save_file(hugging_face_weights(model), folder / "model.safetensors", {"format": "pt"})
    return folder


def stepped(model: Any, loss: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Take one AdamW step; return (gradient, new weight) by name."""
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    optimizer = adamw(model.named_parameters(), AdamWConfig())
    for group in optimizer.param_groups:
        group["lr"] = RATE
    optimizer.step()
    return {name: (gradients[name], parameter.detach()) for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("config", SHAPES, ids=str)
@pytest.mark.parametrize("written_by", ["us", "transformers"])
def test_logits_loss_gradients_and_an_adamw_step_are_those_of_transformers(
    config: GPTConfig, written_by: str, tmp_path: Path
):
    if written_by == "us":
        ours = randomised(config)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(written(ours, tmp_path / "hf"))
    else:
        torch.manual_seed(0)
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**hugging_face_config(config)))
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        theirs.save_pretrained(tmp_path / "hf")
        ours = imported.load(tmp_path / "hf", torch.device("cpu"))
    ours.train(), theirs.train()
    tokens = torch.randint(config.vocabulary, (3, config.context), generator=torch.Generator().manual_seed(0))
    expected = theirs(tokens, labels=tokens)
    torch.testing.assert_close(ours.logits(tokens), expected.logits, rtol=1e-5, atol=1e-5)
    loss = ours(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=0)
    mine, yours = stepped(ours, loss), stepped(theirs, expected.loss)
    for name, other, transposed in imported.hugging_face_names(config):
        for one, two in zip(mine[name], yours[other], strict=True):
            reference = two.t() if transposed else two
            counted = torch.ones_like(reference, dtype=torch.bool)
            if name.endswith("c_attn.bias"):
                # A key's bias moves all scores of a query alike, so its gradient is 0 but for rounding,
                # and AdamW's first step is the sign of it.
                counted[config.channels : 2 * config.channels] = False
                assert mine[name][0][~counted].abs().max() < 1e-6
            found = one[: len(reference)]
            torch.testing.assert_close(found[counted], reference[counted], rtol=1e-5, atol=1e-5)
            assert one[len(reference) :].count_nonzero() == 0, "the padding"


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_what_was_exported_comes_back_to_the_bit_and_goes_out_again(config: GPTConfig, tmp_path: Path):
    first = randomised(config)
    again = imported.load(written(first, tmp_path / "one"), torch.device("cpu"))
    assert again.config == config
    for (name, one), two in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two), name
    second = written(again, tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (second / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_openais_own_layout_is_read(tmp_path: Path):
    """Names without the prefix, masks among the tensors, as openai-community/gpt2 has them."""
    model = randomised(SHAPES[0])
    folder = written(model, tmp_path / "hf")
    tensors = {name.removeprefix("transformer."): each for name, each in hugging_face_weights(model).items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    for name in ("tie_word_embeddings", "n_inner"):
        del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    again = imported.load(folder, torch.device("cpu"))
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))


def test_weights_in_several_files_and_in_bf16_are_read(tmp_path: Path):
    model = randomised(SHAPES[0])
    folder = written(model, tmp_path / "hf")
    tensors = {name: each.bfloat16() for name, each in hugging_face_weights(model).items()}
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    where = {name: f"model-0000{1 + (n % 2)}-of-00002.safetensors" for n, name in enumerate(names)}
    for file in set(where.values()):
        safetensors.torch.save_file({n: tensors[n] for n in names if where[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    again = imported.load(folder, torch.device("cpu"))
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert torch.equal(again.h[0].mlp.c_fc.weight, model.h[0].mlp.c_fc.weight.bfloat16().float())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model_type", "llama"),
        ("activation_function", "relu"),
        ("scale_attn_by_inverse_layer_idx", True),
        ("tie_word_embeddings", False),
        ("n_inner", 100),
        ("n_head", 3),
        ("n_layer", None),
    ],
)
def test_a_model_that_is_no_gpt2_is_refused_by_what_differs(setting: str, value: Any, tmp_path: Path):
    folder = written(randomised(SHAPES[0]), tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(ConfigError, match=r"config\.json"):
        imported.load(folder, torch.device("cpu"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"n_embd": None}, "n_embd is None, not a whole number above 0"),
        ({"n_embd": "32"}, "n_embd is '32', not"),
        ({"n_embd": [32]}, r"n_embd is \[32\], not"),
        ({"n_layer": 2.0}, "n_layer is 2.0, not"),
        ({"n_layer": True}, "n_layer is True, not"),
        ({"n_head": 0}, "n_head is 0, not"),
        ({"vocab_size": -5}, "vocab_size is -5, not"),
        ({"n_positions": 10**20}, "n_positions is 100000000000000000000, not"),
        ({"n_inner": "128"}, "n_inner is '128'"),
        ({"model_type": ["gpt2"]}, r"model_type is \['gpt2'\]"),
        ({"activation_function": {}}, "activation_function is {}"),
        ([], "is no JSON object"),
        ("gpt2", "is no JSON object"),
        (None, "is no JSON object"),
    ],
    ids=str,
)
def test_a_configuration_of_wrong_values_is_refused_in_one_line(content: Any, told: str, tmp_path: Path):
    folder = written(randomised(SHAPES[0]), tmp_path / "hf")
    path = folder / "config.json"
    if isinstance(content, dict):
        content = {**json.loads(path.read_text()), **content}
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=told) as caught:
        imported.load(folder, torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["n_embd", "n_layer", "n_head", "n_positions", "vocab_size"])
def test_a_configuration_that_lacks_a_size_is_refused_by_its_name(name: str, tmp_path: Path):
    folder = written(randomised(SHAPES[0]), tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=f"{name} is missing"):
        imported.load(folder, torch.device("cpu"))


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}', b"{", b"\xff"]
)
def test_a_list_of_files_that_is_none_is_refused_in_one_line(content: bytes, tmp_path: Path):
    folder = written(randomised(SHAPES[0]), tmp_path / "hf")
    (folder / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(CorruptError, match="export or download it again") as caught:
        imported.load(folder, torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "shape", "rows", "unknown", "head", "cut", "gone"])
def test_weights_that_do_not_fit_are_refused_in_one_line(damage: str, tmp_path: Path):
    model = randomised(SHAPES[0])
    folder = written(model, tmp_path / "hf")
    tensors = hugging_face_weights(model)
    path = folder / "model.safetensors"
    if damage == "missing":
        del tensors["transformer.h.1.ln_1.bias"]
    elif damage == "shape":
        tensors["transformer.wpe.weight"] = tensors["transformer.wpe.weight"][:8].contiguous()
    elif damage == "rows":
        tensors["transformer.wte.weight"] = tensors["transformer.wte.weight"][:8].contiguous()
    elif damage == "unknown":
        tensors["transformer.h.0.adapter.weight"] = torch.zeros(2)
    elif damage == "head":
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"] + 1
    safetensors.torch.save_file(tensors, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "gone":
        path.unlink()
    with pytest.raises(UserError) as caught:
        imported.load(folder, torch.device("cpu"))
    assert isinstance(caught.value, ConfigError if damage == "gone" else CorruptError)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        imported.load(tmp_path, torch.device("cpu"))
    shutil.rmtree(tmp_path)
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        imported.load(tmp_path, torch.device("cpu"))
