"""A GPT-2 of the real vocabulary that is small, random and far from uniform, here and as an export."""

import json
from pathlib import Path

import safetensors.torch
import torch

from data_prep.vocabulary import published_files
from pretrain.evaluation.likelihood import TokenScores
from pretrain.export import hugging_face_config, hugging_face_weights
from pretrain.model import GPT, GPTConfig, initialise

CONFIG = GPTConfig(layers=2, heads=2, channels=32, context=64, vocabulary=50_257, padded_vocabulary=50_304)
_SPECIAL = "<|endoftext|>"


def model() -> GPT:
    """Return the model, the same each time."""
    gpt = GPT(CONFIG)
    initialise(gpt, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            scale = 0.3 if name.startswith("w") else 0.1
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return gpt.eval()


def scores(gpt: GPT) -> TokenScores:
    """Return how the model is asked."""
    return lambda inputs, targets: gpt(inputs, targets, reduction="none")


def exported(folder: Path) -> Path:
    """Write the model as a Hugging Face folder."""
    published = published_files()
    (folder / "config.json").write_text(json.dumps(hugging_face_config(CONFIG)))
    (folder / "vocab.json").write_bytes(published["encoder.json"])
    (folder / "merges.txt").write_bytes(published["vocab.bpe"])
    special = {"eos_token": _SPECIAL, "bos_token": _SPECIAL, "unk_token": _SPECIAL}
    tokenizer = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    weights = hugging_face_weights(model())
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
