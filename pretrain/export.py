"""Write a run's newest checkpoint as a Hugging Face folder: a GPT2LMHeadModel with equal logits.

python -m pretrain.export run_dir=RUN output=FOLDER

The folder holds the weights (safetensors, fp32), the model's and the tokenizer's configuration, the
vocabulary, and a model card that says where they come from. transformers is not needed to write it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from conf import compose, typed
from conf.command import run as run_command
from conf.exits import RefusedError
from data_prep.tokenizer import END_OF_TEXT
from data_prep.vocabulary import published_files
from pretrain import trained
from pretrain.model import GPT, GPTConfig, hugging_face_names, parameter_count
from pretrain.trained import Trained
from pretrain.watching.metrics_log import last_values

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ExportConfig:
    """Which run, and where to."""

    run_dir: str
    output: str


def main(overrides: list[str]) -> None:
    """Write the folder and print its path."""
    config = typed(ExportConfig, compose("export", overrides))
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise RefusedError(f"{output} is a file; choose an empty folder, or a new one")
    run = trained.load(Path(config.run_dir))
    texts = text_files(run, Path(config.run_dir))
    unfinished = output / f"{WEIGHTS}.tmp"
    ours = {*texts, WEIGHTS, unfinished.name}
    if output.exists() and (others := {path.name for path in output.iterdir()} - ours):
        raise RefusedError(
            f"{output} holds other files ({min(others)}); choose an empty folder, or a new one"
        )
    output.mkdir(parents=True, exist_ok=True)
    for name, content in texts.items():
        (output / name).write_bytes(content)
    # The weights come last: a folder that has them is whole.
    safetensors.torch.save_file(hugging_face_weights(run.model), unfinished, {"format": "pt"})
    unfinished.replace(output / WEIGHTS)
    print(f"step {run.step} of {config.run_dir} → {output}")


def hugging_face_weights(model: GPT) -> dict[str, Tensor]:
    """Return the weights under GPT2LMHeadModel's names and in its shapes, the padding cut off.

    The head is not among them: it is tied to the embedding.
    """
    ours = dict(model.named_parameters())
    weights = {}
    for name, theirs, transposed in hugging_face_names(model.config):
        tensor = ours[name].detach().cpu()
        if name == "wte.weight":
            tensor = tensor[: model.config.vocabulary]
        weights[theirs] = (tensor.t() if transposed else tensor).contiguous()
    return weights


def text_files(run: Trained, run_dir: Path) -> dict[str, bytes]:
    """Return every file of the folder but the weights."""
    vocabulary = published_files()
    tokenizer = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": run.config.model.context,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "add_prefix_space": False,
    }
    return {
        "config.json": _json(hugging_face_config(run.config.model)),
        "generation_config.json": _json({"bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT}),
        "tokenizer_config.json": _json(tokenizer),
        "vocab.json": vocabulary["encoder.json"],
        "merges.txt": vocabulary["vocab.bpe"],
        "README.md": _model_card(run, run_dir).encode(),
    }


def hugging_face_config(config: GPTConfig) -> dict[str, object]:
    """Return the config.json of a GPT2LMHeadModel of this shape."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocabulary,
        "n_positions": config.context,
        "n_embd": config.channels,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
        "torch_dtype": "float32",
    }


def _model_card(run: Trained, run_dir: Path) -> str:
    losses = last_values(run_dir, "val/loss", 1)
    validation = f"{losses[-1]:.4f} nats per token" if losses else "not measured"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---
# GPT-2, {parameter_count(run.model):,} parameters

| | |
|---|---|
| run | {run.identity.run_id} |
| step | {run.step:,} of {run.config.steps:,} |
| tokens seen | {run.tokens:,} |
| data set fingerprint | {run.identity.dataset_fingerprint} |
| last validation loss | {validation} |
"""


def _json(content: dict[str, object]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


if __name__ == "__main__":
    run_command(main, name="pretrain.export", config="export", usage=__doc__)
