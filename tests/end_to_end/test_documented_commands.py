"""Every command that a page prints runs as printed, in order, on small stand-ins for what the page names."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from documented import PAGES, ROOT, Command, commands
from warm_start import WarmProcess

# What a page names, and what stands for it here. A run of GPT-2 124M becomes one of the smoke model.
STAND_INS = (
    (r"experiment=gpt2_\w+", "experiment=smoke"),
    (r"/data/web/\*\.jsonl|/data/\*\.jsonl", "web/*.jsonl"),
    (r"/data/books", "books"),
    (r"corpus=mycorpus", "corpus=jsonl corpus.paths=[web/*.jsonl] corpus.text_key=text"),
    (r"\$peak", "1e-3"),
    (r"\bRUN_A\b|\bRUN_B\b|\bRUN\b", "runs/first"),
    (r"\bDIR\b", "runs"),
    (r" \[[a-z_]+=[^]]*\]", ""),  # what may be left out
)
# Small enough that a few hundred documents make several blocks.
SMALL = {
    "data_prep.prepare": [
        "packing.block_tokens=1024",
        "packing.shard_tokens=8192",
        "validation.fraction=0.1",
    ],
    "pretrain.train": ["steps=4"],
    "pretrain.doctor": ["ranks=0"],
}
# Nothing stands for what these name: they look at settings alone.
AS_PRINTED = ("pretrain.plan",)
# What cannot be run in a test like this one, and what shows it instead.
ELSEWHERE = {
    r"make |git clone|source ": "the set-up itself: .ci/run, and a fresh clone before each release",
    r"ssh |kill |scancel |for ": "a shell's or another machine's own",
    r"pip install|docker |apptainer ": "built by its user; the recipes are linted in tests/packaging",
    r"wandb |tensorboard ": "tests/pretrain/watching, against a local server and from the files",
    r"python benchmarks/": "a measurement, made by hand",
    r"sbatch |srun |python -m slurm\.|deepspeed |torchrun --nnodes": "tests/slurm, on a real SLURM",
    r"python -m pytest |python -m faults|python end_to_end/soak": "a test of its own",
    r"python -m pretrain\.verify_resume": "tests/end_to_end/test_verify_resume.py",
    r"python -m pretrain\.dashboard (--)?publish": "tests/pretrain/watching/test_workspace.py",
}
_LONGEST_SECONDS = 200
_SERVERS = ("pretrain.dashboard",)


def elsewhere(command: Command) -> str | None:
    """Return what shows this command instead; None if it is run here."""
    return next((where for pattern, where in ELSEWHERE.items() if re.match(pattern, command.text)), None)


def stood_in(command: Command) -> list[str]:
    """Return the arguments of python for a command of a page, its stand-ins in place."""
    text = command.text
    for named, here in STAND_INS:
        if command.module not in AS_PRINTED:
            text = re.sub(named, here, text)
    here = Command(command.page, text)
    assert here.module is not None, f"{command.page}: {command.text}"
    begins = "--cfg" not in here.settings and not any(
        each.startswith("run_dir=") for each in here.settings[:1]
    )
    small = SMALL.get(here.module, []) if begins else []
    if any(each.startswith("data.epochs=") for each in here.settings):
        small = [each for each in small if not each.startswith("steps=")]
    return ["-m", here.module, *here.settings, *small]


def runnable(page: Path) -> list[Command]:
    """Return the page's commands that are run here, each once."""
    return list(dict.fromkeys(each for each in commands(page) if elsewhere(each) is None))


@pytest.fixture
def sandbox(tmp_path: Path, tiny_index: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with a corpus, and with shards and runs for pages that begin with them."""
    (tmp_path / "web").mkdir()
    (tmp_path / "books").mkdir()
    documents = [f"Document {number}: {'words of a text ' * 20}\n" for number in range(400)]
    with (tmp_path / "web" / "part.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in documents)
    for number in range(4):
        (tmp_path / "books" / f"{number}.txt").write_text("".join(documents[number::4]))
    shutil.copytree(tiny_index.parent, tmp_path / "shards")
    for name in ("first", "124m", "rates/00-peak_0.0003", "rates/01-peak_0.0006"):
        shutil.copytree(tiny_run, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def make_room(sandbox: Path, page: list[Command]) -> None:
    """Remove the stand-ins for what the page makes itself."""
    for command in page:
        arguments = dict(each.split("=", 1) for each in stood_in(command) if "=" in each)
        if command.module == "data_prep.prepare":
            shutil.rmtree(sandbox / "shards", ignore_errors=True)
        elif command.module == "pretrain.train" and "experiment" in arguments and "run_dir" in arguments:
            shutil.rmtree(sandbox / arguments["run_dir"], ignore_errors=True)


def run(command: Command, log: Path) -> int:
    """Return the command's exit code; one that serves until it is interrupted is interrupted."""
    arguments = stood_in(command)
    process = WarmProcess(arguments, log=log, environment=dict(os.environ))
    serves = command.module in _SERVERS and not any("export=" in each for each in arguments)
    if serves and ("status" not in arguments or "--watch" in arguments):
        deadline = time.monotonic() + _LONGEST_SECONDS
        while process.poll() is None and not (log.exists() and log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    return process.wait(_LONGEST_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_commands_of_a_page_run_in_their_order(sandbox: Path, page: Path):
    every = runnable(page)
    make_room(sandbox, every)
    for number, command in enumerate(every):
        log = sandbox / f"command-{number}.log"
        assert run(command, log) == 0, f"{command.text}\n{log.read_text()}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_that_is_run_nowhere_is_accounted_for(page: Path):
    """Besides those of ELSEWHERE, only Python modules can be run here, and an ellipsis cannot."""
    odd = [each.text for each in runnable(page) if each.module is None or "…" in each.text]
    assert odd == []


def test_the_pages_have_commands_and_a_broken_one_is_found(tmp_path: Path):
    assert sum(len(runnable(page)) for page in PAGES) > 20
    page = tmp_path / "page.md"
    page.write_text(
        "```\npython -m pretrain.train \\\n    run_dir=RUN   # go on\nits output\n```\nand `make x`.\n"
    )
    found = [each.text for each in commands(page, tmp_path)]
    assert found == ["python -m pretrain.train      run_dir=RUN   # go on", "make x"]
    assert Command("page", found[0]).settings == ["run_dir=RUN"]
