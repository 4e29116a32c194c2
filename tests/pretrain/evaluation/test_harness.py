"""The documented command of lm-evaluation-harness on an export, and our own scores of the same examples."""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_model import CONFIG, exported, model, scores

from data_prep.tokenizer import load_tokenizer
from pretrain.distributed import World
from pretrain.evaluation.suite import EvaluationConfig, Suite
from pretrain.evaluation.tasks import TASKS

pytestmark = pytest.mark.soak
lm_eval = pytest.importorskip("lm_eval")

TASKS_OF_THE_HARNESS = Path(lm_eval.__file__).parent / "tasks"
WORDS = "the of and a in to it was for on you he be with as by at have are this not but from or"


def sentence(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS.split(), k=words))


def hellaswag(count: int, seed: int) -> list[dict[str, Any]]:
    """Return records in the published format, with all that the harness takes out of them."""
    chance, records = random.Random(seed), []
    for number in range(count):
        ctx_a = f"{sentence(chance, 9)}. [header] {sentence(chance, 3)} [title] {sentence(chance, 4)}."
        record = {"activity_label": sentence(chance, 2), "ctx_a": ctx_a, "ctx_b": "he"}
        endings = [
            f"{mark}{sentence(chance, chance.randint(2, 9))}." for mark in ("", "[substeps] ", "", " ")
        ]
        record |= {"ctx": f"{ctx_a} he", "endings": endings, "label": number % 4}
        records.append(record)
    return records


@torch.no_grad()
def lambada(count: int) -> list[dict[str, Any]]:
    """Return records of which the model knows some last words."""
    chance, gpt, tokenizer, records = random.Random(1), model(), load_tokenizer(), []
    while len(records) < count:
        text = sentence(chance, chance.randint(5, 90))
        guess = int(gpt.logits(torch.tensor([tokenizer.encode(text)[-64:]]))[0, -1].argmax())
        word = tokenizer.decode([guess])
        if word[:1] == " " and word[1:].isalpha() and len(records) % 2:
            text += word
        records.append({"text": text})
    return records


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def local_tasks(folder: Path) -> dict[str, str]:
    """Write the harness's own tasks with our files as their data; return the files by our names."""
    folder.mkdir()
    files = {
        "hellaswag": write(folder / "hellaswag.jsonl", hellaswag(12, seed=0)),
        "lambada": write(folder / "lambada.jsonl", lambada(12)),
        "wikitext2": write(
            folder / "wikitext.jsonl",
            [{"page": f" = A =  \n {sentence(random.Random(2), 99)} , 1 @,@ 0 . \n"}, {"page": " b c \n"}],
        ),
    }
    shots = write(folder / "shots.jsonl", hellaswag(3, seed=5))
    tasks = {
        "local_hellaswag": (
            "hellaswag/hellaswag.yaml",
            {"validation": files["hellaswag"], "train": shots},
            0,
        ),
        "local_few_shot": ("hellaswag/hellaswag.yaml", {"validation": files["hellaswag"], "train": shots}, 2),
        "local_lambada": ("lambada/lambada_openai.yaml", {"test": files["lambada"]}, 0),
        "local_wikitext": ("wikitext/wikitext.yaml", {"test": files["wikitext2"]}, 0),
    }
    for name, (theirs, data, few_shot) in tasks.items():
        lines = {"include": str(TASKS_OF_THE_HARNESS / theirs), "task": name, "dataset_path": "json"}
        lines |= {"dataset_name": None, "dataset_kwargs": {"data_files": data}, "num_fewshot": few_shot}
        if few_shot:
            lines["fewshot_config"] = {"sampler": "first_n"}
        if name == "local_wikitext":
            lines |= {"training_split": None, "validation_split": None}
        (folder / f"{name}.yaml").write_text(json.dumps(lines))  # JSON is YAML
    return {**files, "shots": shots}


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, Any]]:
    """Return our files and the harness's results on them, as docs/evaluation.md runs it."""
    folder = tmp_path_factory.mktemp("harness")
    files = local_tasks(folder / "tasks")
    (folder / "hf").mkdir()
    model_arguments = f"pretrained={exported(folder / 'hf')},dtype=float32,max_length={CONFIG.context}"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", model_arguments]
    names = "local_hellaswag,local_few_shot,local_lambada,local_wikitext"
    command += ["--tasks", names, "--include_path", str(folder / "tasks"), "--device", "cpu"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    done = subprocess.run(
        [*command, "--output_path", str(folder / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, **offline},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (folder / "out").rglob("results*.json")
    return files, json.loads(results.read_text())["results"]


def ours(world: World, files: dict[str, str], name: str, few_shot: int = 0) -> dict[str, float]:
    config = EvaluationConfig(
        tasks=[name], files={name: files[name]}, few_shot=few_shot, shots={name: files["shots"]}
    )
    return Suite(config, world, CONFIG, load_tokenizer()).scores(name, scores(model()))


@pytest.mark.parametrize(("theirs", "few_shot"), [("local_hellaswag", 0), ("local_few_shot", 2)])
def test_hellaswag_is_the_harness_own(world: World, harness: Any, theirs: str, few_shot: int):
    files, results = harness
    found = ours(world, files, "hellaswag", few_shot)
    for metric in ("acc", "acc_norm"):
        assert found[metric] == pytest.approx(results[theirs][f"{metric},none"], abs=1e-12), metric
    assert found["examples"] == 12


def test_lambada_is_the_harness_own(world: World, harness: Any):
    files, results = harness
    found = ours(world, files, "lambada")
    assert 0 < found["acc"] < 1
    assert found["acc"] == pytest.approx(results["local_lambada"]["acc,none"], abs=1e-12)
    assert found["ppl"] == pytest.approx(results["local_lambada"]["perplexity,none"], rel=1e-4)


def test_wikitext_is_the_harness_own(world: World, harness: Any):
    files, results = harness
    found = ours(world, files, "wikitext2")
    theirs = results["local_wikitext"]
    assert found["bpb"] == pytest.approx(theirs["bits_per_byte,none"], rel=1e-4)
    assert math.log(found["word_ppl"]) == pytest.approx(math.log(theirs["word_perplexity,none"]), rel=1e-4)


def test_hellaswag_by_completion_is_llm_cs_loop(world: World, harness: Any):
    """Karpathy/llm.c, dev/data/hellaswag.py: evaluate()."""
    files, _ = harness
    gpt, tokenizer, correct, correct_norm = model(), load_tokenizer(), 0, 0
    lines = Path(files["hellaswag"]).read_text().splitlines()
    for record in map(json.loads, lines):
        context, costs, means = tokenizer.encode(record["ctx"]), [], []
        for ending in record["endings"]:
            end = tokenizer.encode(" " + ending)
            tokens = torch.tensor([(context + end)[-(CONFIG.context + 1) :]])
            with torch.no_grad():
                logits = gpt.logits(tokens[:, :-1])[0]
            losses = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")[-len(end) :]
            costs.append(float(losses.sum()))
            means.append(float(losses.mean()))
        correct += costs.index(min(costs)) == record["label"]
        correct_norm += means.index(min(means)) == record["label"]
    found = ours(world, {**files, "hellaswag_completion": files["hellaswag"]}, "hellaswag_completion")
    assert (found["acc"], found["acc_norm"]) == (correct / 12, correct_norm / 12)


def test_every_published_file_has_its_format_in_its_name():
    published = [task.published for task in TASKS.values() if task.published]
    assert all(path.endswith((".jsonl", ".txt", ".parquet")) for path in published)
