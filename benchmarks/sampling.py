"""How much the key-value cache saves: greedy sampling with it against recomputing the window each time.

python benchmarks/sampling.py RUN [TOKENS [EVERY]] > benchmarks/results/sampling_cpu.json

Every token drawn with the cache must be the one that recomputing its window gives, or the script fails.
CPU seconds of this process count, so that other load does not decide. Two recomputations are timed, at
every EVERYth token, and multiplied: of all logits of the window, and of the last position's alone, which is
the least that can be done without a cache.
"""

import json
import platform
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)

from data_prep.tokenizer import load_tokenizer
from pretrain import trained
from pretrain.generation import Drawing, drawn_tokens, generators, window_start
from pretrain.model import GPT

PROMPT = "def read_file(path):"


def cached(model: GPT, prompt: list[int], tokens: int) -> list[int]:
    """Return greedy tokens as pretrain.sample draws them."""
    drawing = Drawing(tokens=tokens, temperature=0.0)
    return [token for (token,) in drawn_tokens(model.logits, model.config, prompt, drawing, generators(0, 1))]


def recomputed(model: GPT, written: list[int], *, last: bool) -> int:
    """Return the token after `written` by its whole window."""
    window = torch.tensor([written[window_start(len(written), model.config.context) :]])
    x = model._features(window)
    logits = F.linear(x[:, -1:] if last else x, model.wte.weight)
    return int(logits[0, -1, : model.config.vocabulary].argmax())


def main(run_dir: Path, tokens: int, every: int) -> None:
    """Measure, and print the result as JSON."""
    run, tokenizer = trained.load(run_dir), load_tokenizer()
    prompt = [tokenizer.end_of_text, *tokenizer.encode(PROMPT)]
    cached(run.model, prompt, 2)  # warm
    started = time.process_time()
    text = [*prompt, *cached(run.model, prompt, tokens)]
    seconds = {"cached": time.process_time() - started, "recomputed_all": 0.0, "recomputed_last": 0.0}
    places = range(len(prompt), len(text), every)
    differing = 0
    with torch.inference_mode():
        for place in places:  # interleaved
            for name in ("recomputed_all", "recomputed_last"):
                started = time.process_time()
                found = recomputed(run.model, text[:place], last=name == "recomputed_last")
                seconds[name] += (time.process_time() - started) * tokens / len(places)
                differing += found != text[place]
    result = {
        "what": f"greedy sampling of {tokens} tokens, CPU seconds",
        "model": vars(run.config.model),
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread",
        "torch": torch.__version__,
        "recomputed_places": len(places),
        "places_that_differ": differing,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "faster": {name: round(value / seconds["cached"], 2) for name, value in seconds.items()},
    }
    print(json.dumps(result, indent=1))
    assert differing == 0, "the ways differ"


if __name__ == "__main__":
    sizes = [int(each) for each in sys.argv[2:]]
    main(Path(sys.argv[1]), *(sizes + [512, 8][len(sizes) :]))
