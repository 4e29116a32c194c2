"""How much the key-value cache saves: greedy sampling with it against recomputing the window each time.

python benchmarks/sampling.py RUN [TOKENS] > benchmarks/results/sampling_cpu.json

Both draw the same tokens, or the script fails. Rounds are interleaved and counted in CPU seconds of this
process, so that other load does not decide. Two recomputations: of all logits of the window, and of the
last position's alone, which is the least that can be done without a cache.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)

from data_prep.tokenizer import load_tokenizer
from pretrain import trained
from pretrain.generation import Drawing, drawn_tokens, generators, window_start
from pretrain.model import GPT

ROUNDS = 3
PROMPT = "def read_file(path):"


def cached(model: GPT, prompt: list[int], tokens: int) -> list[int]:
    """Return greedy tokens as pretrain.sample draws them."""
    drawing = Drawing(tokens=tokens, temperature=0.0)
    return [token for (token,) in drawn_tokens(model.logits, model.config, prompt, drawing, generators(0, 1))]


def recomputed(model: GPT, prompt: list[int], tokens: int, *, last: bool) -> list[int]:
    """Return greedy tokens, each from its whole window."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            window = torch.tensor([ids[window_start(len(ids), model.config.context) :]])
            if last:
                logits = F.linear(model._features(window)[:, -1:], model.wte.weight)
            else:
                logits = model.logits(window)
            ids.append(int(logits[0, -1, : model.config.vocabulary].argmax()))
    return ids[len(prompt) :]


def main(run_dir: Path, tokens: int) -> None:
    """Measure, and print the result as JSON."""
    run, tokenizer = trained.load(run_dir), load_tokenizer()
    prompt = [tokenizer.end_of_text, *tokenizer.encode(PROMPT)]
    ways: dict[str, Callable[[], list[int]]] = {
        "cached": lambda: cached(run.model, prompt, tokens),
        "recomputed_all_logits": lambda: recomputed(run.model, prompt, tokens, last=False),
        "recomputed_last_logits": lambda: recomputed(run.model, prompt, tokens, last=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    written: dict[str, list[int]] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.process_time()
            written[name] = way()
            seconds[name].append(time.process_time() - started)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    result = {
        "what": f"greedy sampling of {tokens} tokens, CPU seconds, median of {ROUNDS} interleaved rounds",
        "model": vars(run.config.model),
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread",
        "torch": torch.__version__,
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "faster": {name: round(medians[name] / medians["cached"], 2) for name in list(ways)[1:]},
        "same_tokens": len({tuple(each) for each in written.values()}) == 1,
    }
    print(json.dumps(result, indent=1))
    assert result["same_tokens"], "the ways differ"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 512)
