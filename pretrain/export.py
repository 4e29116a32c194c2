"""Write a run's newest checkpoint as a Hugging Face folder: a GPT2LMHeadModel with equal logits.

python -m pretrain.export run_dir=RUN output=FOLDER [checkpoint=best]

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
from conf.exits import ConfigError, RefusedError
from data_prep.tokenizer import END_OF_TEXT
from data_prep.vocabulary import published_files
from pretrain import trained
from pretrain.evaluation.suite import SIZES
from pretrain.model import GPT, GPTConfig, hugging_face_names, parameter_count
from pretrain.trained import EVALUATIONS, Trained
from pretrain.watching.metrics_log import FILE_NAME
from pretrain.watching.run_log import read_run

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ExportConfig:
    """Which run, and where to."""

    run_dir: str
    output: str
    checkpoint: str = "newest"


def main(overrides: list[str]) -> None:
    """Write the folder and print its path."""
    config = typed(ExportConfig, compose("export", overrides))
    output = Path(config.output)
    if output.exists() and not output.is_dir():
        raise RefusedError(f"{output} is a file; choose an empty folder, or a new one")
    run = trained.load(Path(config.run_dir), config.checkpoint)
    texts = text_files(run, Path(config.run_dir))
    unfinished = output / f"{WEIGHTS}.tmp"
    ours = {*texts, WEIGHTS, unfinished.name}
    if output.exists() and (others := {path.name for path in output.iterdir()} - ours):
        raise RefusedError(
            f"{output} holds other files ({min(others)}); choose an empty folder, or a new one"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{output} cannot be a folder: {error.strerror}; choose another") from error
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
    # Its name alone: a card is published, and a path says where somebody works.
    begun_from = (
        f"| began with the weights of | {Path(run.config.init_from).name} |\n" if run.config.init_from else ""
    )
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
| validation loss at this step | {_validation_loss(run, run_dir)} |
{begun_from}
## Scores

{_scores(run, run_dir)}
"""


def _validation_loss(run: Trained, run_dir: Path) -> str:
    if not (run_dir / FILE_NAME).exists():
        return "not measured"
    losses = [
        row["val/loss"] for row in read_run(run_dir).rows() if row["step"] == run.step and "val/loss" in row
    ]
    return f"{losses[-1]:.4f} nats per token" if losses else "not measured"


def _scores(run: Trained, run_dir: Path) -> str:
    """Return a table of what evaluate has found for this step; of equal questions the last counts."""
    path = run_dir / EVALUATIONS
    lines = path.read_text().splitlines() if path.exists() else []
    found = {}
    for row in (json.loads(line) for line in lines):
        if row["step"] == run.step:
            found[row["task"], row["few_shot"], row["limit"], row["stride"]] = row["scores"]
    if not found:
        return "None yet; `python -m pretrain.evaluate run_dir=RUN tasks=[…]` takes them."
    table = ["| task | few-shot | limit | scores |", "|---|---|---|---|"]
    for (task, few_shot, limit, _), scores in found.items():
        told = ", ".join(f"{name} {value:.4f}" for name, value in scores.items() if name not in SIZES)
        size = ", ".join(f"{int(scores[name]):,} {name}" for name in SIZES if name in scores)
        table.append(f"| {task} | {few_shot} | {limit or 'none'} | {told} ({size}) |")
    return "\n".join(table)


def _json(content: dict[str, object]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


if __name__ == "__main__":
    run_command(main, name="pretrain.export", config="export", usage=__doc__)
