"""Whether `evaluate` and an independent loop with transformers find the same perplexity of a text.

python benchmarks/perplexity.py RUN EXPORT TEXT [STRIDE] > benchmarks/results/perplexity.json

EXPORT is what pretrain.export made of RUN. Windows: the first begins after an end-of-text, each later one
scores STRIDE tokens (the context if none is given) behind as many as the context has room for; one
document, de-tokenised as WikiText.
"""

import json
import math
import sys
import time
from pathlib import Path

import torch
import transformers

from data_prep.tokenizer import load_tokenizer
from pretrain import trained
from pretrain.distributed import joined
from pretrain.evaluation.detokenizers import wikitext
from pretrain.evaluation.suite import EvaluationConfig, Suite


@torch.no_grad()
def strided_loop(export: Path, text: str, stride: int | None) -> tuple[float, int]:
    """Return perplexity and tokens by transformers' tokenizer and model, one window at a time."""
    model = transformers.GPT2LMHeadModel.from_pretrained(export).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]])
    context, total, scored = model.config.n_positions, 0.0, 1
    while scored < ids.shape[1]:
        end = min(scored + (context if scored == 1 else stride or context), ids.shape[1])
        window = ids[:, max(0, end - 1 - context) : end]
        logits = model(window[:, :-1]).logits[0, -(end - scored) :]
        loss = torch.nn.functional.cross_entropy(logits, window[0, -(end - scored) :], reduction="sum")
        total += float(loss)
        scored = end
    return math.exp(total / (ids.shape[1] - 1)), ids.shape[1] - 1


def main(run_dir: Path, export: Path, text: Path, stride: int | None) -> None:
    """Print both perplexities as JSON; fail if they differ by more than 1e-4 of themselves."""
    run = trained.load(run_dir)
    config = EvaluationConfig(tasks=["wikitext2"], files={"wikitext2": str(text)}, stride=stride)
    started = time.process_time()
    with joined() as world:
        suite = Suite(config, world, run.model.config, load_tokenizer())
        ours = suite.scores("wikitext2", lambda inputs, targets: run.model(inputs, targets, reduction="none"))
    ours_seconds, started = time.process_time() - started, time.process_time()
    theirs, tokens = strided_loop(export, wikitext(text.read_text()), stride)
    difference = abs(ours["ppl"] / theirs - 1)
    result = {
        "what": "perplexity per token, evaluate against a loop with transformers on the export",
        "text": text.name,
        "step": run.step,
        "context": run.model.config.context,
        "stride": stride or run.model.config.context,
        "tokens": [int(ours["tokens"]), tokens],
        "perplexity": [ours["ppl"], theirs],
        "relative_difference": difference,
        "word_perplexity": ours["word_ppl"],
        "bits_per_byte": ours["bpb"],
        "cpu_seconds": [round(ours_seconds, 1), round(time.process_time() - started, 1)],
    }
    print(json.dumps(result, indent=1))
    assert difference < 1e-4, "they differ"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), int(sys.argv[4]) if len(sys.argv) > 4 else None)
