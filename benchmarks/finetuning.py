"""Whether going on from a trained model beats beginning anew, with the same tokens of a small corpus.

usage: python benchmarks/finetuning.py RUN TEXT [RESULT.json]

RUN is a run of experiment=demo, TEXT a file. Both ways take 60 steps of 4,096 tokens, with the same batches,
at each of three peak rates; the best rate of each way counts, so that neither loses by its rate alone.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import record

from pretrain.watching.run_log import read_run

RATES = (3e-4, 1e-3, 2e-3)
SIZES = ("steps=60", "batch.tokens=4096", "batch.micro_sequences=8", "data.sequence_tokens=128")
OFTEN = ("validation.every=20", "validation.tokens=16384", "validation.patience=null", "checkpoint.every=0")


def main(run_dir: Path, text: Path, result: Path | None) -> None:
    """Print the best validation loss of each way at each rate, and which way's best is lower."""
    best: dict[str, dict[float, float]] = {"fine-tuned": {}, "from scratch": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = ("corpus=text", f"corpus.paths=[{text}]", "packing.block_tokens=8192")
        _run("data_prep.prepare", *small, f"output={folder}/data")
        _run("data_prep.finalize", f"output={folder}/data")
        data = (f"data.index={folder}/data/index.json", "precision=fp32", "tracking=disabled")
        ways = {
            "fine-tuned": ("experiment=finetune", f"init_from={run_dir}"),
            "from scratch": ("experiment=demo",),
        }
        for rate in RATES:
            for way, settings in ways.items():
                target = folder / f"{way.replace(' ', '-')}-{rate}"
                more = (f"schedule.peak={rate}", f"run_dir={target}")
                _run("pretrain.train", *settings, *data, *SIZES, *OFTEN, *more)
                losses = [row["val/loss"] for row in read_run(target).rows() if "val/loss" in row]
                best[way][rate] = min(losses)
                told = f"first {losses[0]:.4f}, best {min(losses):.4f}, last {losses[-1]:.4f}"
                print(f"{way:13s} peak {rate:g}: {told}", flush=True)
    tuned, anew = (min(each.values()) for each in best.values())
    print(f"best of fine-tuning {tuned:.4f}, best from scratch {anew:.4f}")
    if result is not None:
        content = {"text": text.name, "steps": 60, "tokens": 245_760, "best_validation_loss": best}
        print(record.write(result.stem, content, result.parent))
    if not tuned < anew:
        raise SystemExit("fine-tuning did not end lower")


def _run(module: str, *settings: str) -> None:
    subprocess.run([sys.executable, "-m", module, *settings], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None)
