"""Every command that a page prints runs as printed, in order, on small stand-ins for what the page names."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from documented import PAGES, ROOT, Command, commands, hidden
from published import write_benchmarks, write_corpora, write_harness_task
from warm_start import WarmProcess

# What a page names, and what stands for it here. A run of GPT-2 124M becomes one of the smoke model.
STAND_INS = (
    (r"experiment=gpt2_\w+", "experiment=smoke"),
    (r"--nproc-per-node 8", "--nproc-per-node 2"),
    (r"^deepspeed ", "deepspeed --num_gpus 2 "),  # as many ranks where there is no GPU to count
    (r"/data/web/\*\.jsonl|/data/\*\.jsonl", "web/*.jsonl"),
    (r"/data/books", "books"),
    (r"\$peak", "1e-3"),
    (r"\bRUN_A\b|\bRUN_B\b|\bRUN\b", "runs/first"),
    (r"\bDIR\b", "runs"),
    (r" \[[a-z_]+=[^]]*\]", ""),  # what may be left out
    # The published data sets of the harness are on the hub; the same task on a file is not.
    (r"dtype=float32 --tasks \S+", "dtype=float32,max_length=64 --tasks local_lambada --include_path tasks"),
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
    "lm_eval": ["--device", "cpu"],
}
# So that the best state of a fine-tuning of four steps is one of its own.
_FINETUNE = ["batch.tokens=1024", "data.sequence_tokens=64", "validation.every=2", "validation.tokens=2048"]
_LAUNCHERS = {"torchrun": "torch.distributed.run", "deepspeed": "deepspeed.launcher.runner"}
# Nothing stands for what these name: they look at settings alone.
AS_PRINTED = ("pretrain.plan",)
# What runs in a test of its own, or is one.
ELSEWHERE = {
    r"make (test|setup|check|soak)\b": ".ci/run",
    r"sbatch |srun |tests/slurm/cluster |export CLUSTER_DIR": "tests/slurm/test_by_hand.py",
    r"scontrol requeue|scancel": "tests/slurm/test_training.py",
    r"scontrol (release|update)": "tests/slurm/hurting.py",
    r"touch RUN/STOP": "tests/end_to_end/test_signals.py",
    r"kill -USR2 PID": "tests/pretrain/guard/test_watchdog.py",
    r"torchrun --nnodes": "tests/slurm/test_training.py",
    r"python -m slurm\.submit (--multirun|run_dir=runs/rates)": "tests/slurm/test_sweep.py",
    r"python -m slurm\.": "tests/slurm/test_chain.py",
    r"python -m pretrain\.verify_resume": "tests/end_to_end/test_verify_resume.py",
    r"python -m pretrain\.dashboard (--)?publish": "tests/pretrain/watching/test_workspace.py",
    r"wandb (beta )?sync": "tests/pretrain/watching/test_tracking_service.py",
    r"tensorboard ": "tests/pretrain/watching/test_tensorboard.py",
    r"(python -m )?pytest ": "tests",
    r"python -m faults\.": "tests/faults",
    r"python end_to_end/soak": "tests/end_to_end/soak.py",
    r"python benchmarks/": "benchmarks/README.md",
}
# What no test runs, and why.
NOT_RUN = {
    r"git clone|source |make demo": "the set-up itself, done on a fresh clone before each release",
    r"make (bench|bench-gpu|test-gpu)\b": "a measurement, or wants a GPU: made by hand",
    r"deepspeed --hostfile": "it needs an ssh server on every machine, also on the only one",
    r"ssh ": "it needs another machine",
    r"scontrol (release|update)": "an administrator's, for a job that SLURM holds or a node that it drained",
    r"export ": "the shell's own; tests set the same variables",
    r"for ": "the shell's own; the command inside is run",
    r"pip install": "what it installs is set up by `make setup`, the wheel by tests/packaging/test_wheel.py",
    r"hf download": "it fetches from the hub; an export of ours stands for what it leaves",
    r"wandb (leet|login|clean)": "W&B's own, on a terminal or an account",
}
_LONGEST_SECONDS = 200
_SERVERS = ("pretrain.dashboard",)


def elsewhere(command: Command) -> str | None:
    """Return what shows this command instead, or why nothing does; None if it is run here."""
    known = (NOT_RUN | ELSEWHERE).items()
    return next((where for pattern, where in known if re.match(pattern, command.text)), None)


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
    if "experiment=finetune" in here.settings:
        small = [*small, *_FINETUNE]
    launched = here.words[: here.words.index(here.module)]
    if launched[0] in _LAUNCHERS:
        launched[0:1] = ["-m", _LAUNCHERS[launched[0]]]
        return [*launched, here.module, *here.settings, *small]
    return ["-m", here.module, *here.settings, *small]


def with_files(arguments: list[str], files: dict[str, str]) -> list[str]:
    """Add local files to a command that would fetch those of its benchmarks."""
    asked = next((each for each in arguments if re.match(r"(evaluation\.)?tasks=", each)), "")
    prefix, _, names = asked.partition("tasks=")
    if not names or any(each.startswith(f"{prefix}files=") for each in arguments):
        return arguments
    named = ",".join(f"{name}:'{files[name]}'" for name in names.strip("[]").split(","))
    return [*arguments, f"{prefix}files={{{named}}}"]


def runnable(page: Path) -> list[Command]:
    """Return the page's commands that are run here, each once."""
    return list(dict.fromkeys(each for each in commands(page) if elsewhere(each) is None))


@pytest.fixture(scope="module")
def tiny_export(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small run's model as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("hf") / "export"
    command = [sys.executable, "-m", "pretrain.export", f"run_dir={tiny_run}", f"output={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def sandbox(
    tmp_path: Path, tiny_index: Path, tiny_run: Path, tiny_export: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return a working directory with a corpus, and with shards and runs for pages that begin with them."""
    write_corpora(tmp_path)
    shutil.copytree(tiny_index.parent, tmp_path / "shards")
    for name in ("first", "124m", "rates/00-peak_0.0003", "rates/01-peak_0.0006"):
        shutil.copytree(tiny_run, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    for name in ("124m", "openai-124m"):
        shutil.copytree(tiny_export, tmp_path / "hf" / name)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("PRETRAIN_CONF", str(tmp_path / "conf"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def makes(command: Command) -> str | None:
    """Return the directory that a command makes anew, if it does so."""
    arguments = dict(each.split("=", 1) for each in stood_in(command) if "=" in each)
    if command.module == "data_prep.prepare" and "--cfg" not in command.settings:
        return arguments["output"]
    if command.module == "pretrain.train" and "experiment" in arguments:
        return arguments.get("run_dir")
    return None


def started(arguments: list[str], log: Path) -> WarmProcess | subprocess.Popen[bytes]:
    """Start Python with these arguments: warm, but for what has children of its own."""
    if arguments[1].startswith(("pretrain.", "data_prep.")):
        return WarmProcess(arguments, log=log, environment=dict(os.environ))
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT)


def run(command: Command, log: Path, files: dict[str, str]) -> int:
    """Return the command's exit code; one that serves until it is interrupted is interrupted."""
    arguments = with_files(stood_in(command), files)
    process = started(arguments, log)
    serves = command.module in _SERVERS and not any("export=" in each for each in arguments)
    try:
        if serves and ("status" not in arguments or "--watch" in arguments):
            deadline = time.monotonic() + _LONGEST_SECONDS
            while process.poll() is None and not (log.exists() and log.read_text()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
        return process.wait(_LONGEST_SECONDS)
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_commands_of_a_page_run_in_their_order(sandbox: Path, page: Path):
    every = runnable(page)
    files = write_benchmarks(sandbox)
    if any(command.module == "lm_eval" for command in every):
        write_harness_task(sandbox / "tasks", files["lambada"])
    made = set()
    for number, command in enumerate(every):
        directory = makes(command)
        if directory and directory not in made:
            made.add(directory)
            shutil.rmtree(sandbox / directory, ignore_errors=True)  # what has stood for it until now
        log = sandbox / f"command-{number}.log"
        assert run(command, log, files) == 0, f"{command.text}\n{log.read_text()}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_that_is_run_nowhere_is_accounted_for(page: Path):
    """Besides those of ELSEWHERE, only Python modules can be run here, and an ellipsis cannot."""
    odd = [each.text for each in runnable(page) if each.module is None or "…" in each.text]
    assert odd == []
    assert hidden(page) == [], "a block of another kind hides these"


def test_what_is_said_to_run_elsewhere_is_there_and_still_on_a_page():
    every = [command.text for page in PAGES for command in commands(page)]
    assert [path for path in ELSEWHERE.values() if not (ROOT / path).exists()] == []
    targets = {text.split()[1] for text in every if text.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
    for pattern in ELSEWHERE | NOT_RUN:
        assert any(re.match(pattern, text) for text in every), f"no page prints {pattern}"


def test_the_pages_have_commands_and_a_broken_one_is_found(tmp_path: Path):
    assert sum(len(runnable(page)) for page in PAGES) > 20
    page = tmp_path / "page.md"
    page.write_text(
        "```\npython -m pretrain.train \\\n    run_dir=RUN   # go on\nits output\n```\nand `make x`.\n"
    )
    found = [each.text for each in commands(page, tmp_path)]
    assert found == ["python -m pretrain.train      run_dir=RUN   # go on", "make x"]
    assert Command("page", found[0]).settings == ["run_dir=RUN"]
    page.write_text("```text\npython -m pretrain.train\n```\n")
    assert hidden(page) == ["python -m pretrain.train"]
