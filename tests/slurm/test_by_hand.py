"""What docs/cluster.md prints to be typed by hand: plain sbatch, srun, and the test cluster itself."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from documented import PAGES, ROOT, commands
from slurm_cluster import Cluster, why_not
from training import read

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

(PAGE,) = [page for page in PAGES if page.name == "cluster.md"]
# What the test cluster has, in place of what the page's has.
SMALL = {
    "--array=0-15%8": "--array=0-3%2",
    "--cpus-per-task=4": "--cpus-per-task=1",
    "--ntasks-per-node=8": "--ntasks-per-node=1",
    "--gpus-per-node=8": "--gpus-per-node=1",
    "--cpus-per-task=12": "--cpus-per-task=1",
    "--time=1-0": "--time=30",
    "experiment=gpt2_124m": "experiment=smoke",
}
SETTINGS = ("steps=4", "batch.tokens=256")


def printed(start: str) -> list[str]:
    """Return the page's commands that begin so."""
    found = [command.text for command in commands(PAGE) if command.text.startswith(start)]
    assert found, f"{PAGE} prints no {start}"
    return found


@pytest.fixture
def at_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Go where the page says to be; return the environment of a shell with the Python environment active."""
    (tmp_path / "web").mkdir()
    with (tmp_path / "web" / "part.jsonl").open("w") as file:
        file.writelines(
            json.dumps({"text": f"Document {n}: {'some words ' * 40}"}) + "\n" for n in range(400)
        )
    monkeypatch.chdir(ROOT)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    return {"PATH": path, "SBATCH_OUTPUT": str(tmp_path / "job-%A-%a.log")}


def small(command: str, folder: Path, job: str = "") -> list[str]:
    """Return a command's words, for the test cluster and with its files in `folder`."""
    for large, here in SMALL.items():
        command = command.replace(large, here)
    command = command.replace("/data/web/", f"{folder}/web/").replace("afterany:JOB", f"afterany:{job}")
    return shlex.split(re.sub(r"(output|data\.index|run_dir)=", rf"\1={folder}/", command))


def test_the_jobs_submitted_by_hand_make_shards_and_train_on_them(
    cluster: Cluster, at_the_root: dict[str, str], tmp_path: Path
):
    prepare, finalize, train = printed("sbatch ")
    sizes = ("packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1")
    jobs = {}
    for command, more in ((prepare, sizes), (finalize, ()), (train, SETTINGS)):
        said = cluster.ask(*small(command, tmp_path, jobs.get(prepare, "")), *more, **at_the_root)
        jobs[command] = said.split()[-1]  # Submitted batch job N
        if command != prepare:
            ended = cluster.ended(jobs[command])
            logs = "".join(path.read_text() for path in sorted(tmp_path.glob("job-*.log")))
            assert ended == "COMPLETED", logs
    assert (tmp_path / "shards" / "index.json").exists()
    run = tmp_path / "runs" / "124m"
    assert [line["decision"] for line in read(run / "attempts.jsonl") if line["event"] == "outcome"] == [
        "done"
    ]


def test_in_an_allocation_srun_starts_ranks_that_find_each_other(
    cluster: Cluster, at_the_root: dict[str, str], tiny_index: Path, tmp_path: Path
):
    (command,) = printed("srun python")
    settings = ("experiment=smoke", f"data.index={tiny_index}", f"run_dir={tmp_path}/run", *SETTINGS)
    words = shlex.split(command.removesuffix("…"))
    shape = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1", "--time=30")
    done = cluster.tried("salloc", *shape, *words, *settings, **at_the_root)
    assert done.returncode == 0, done.stdout + done.stderr
    begin, end = (line for line in read(tmp_path / "run" / "attempts.jsonl"))
    assert (begin["ranks"], end["exit_code"], end["step"]) == (2, 0, 4)


def test_the_test_cluster_starts_breaks_and_goes_as_printed(tmp_path: Path):
    if reason := why_not():
        pytest.skip(f"no test cluster: {reason}")
    (block,) = re.findall(r"^```\n(export CLUSTER_DIR.*?)^```", PAGE.read_text(), re.M | re.S)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    number = str((os.getpid() + 1) % 250)  # beside the one of the other tests
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "CLUSTER_NUMBER": number},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(done.stdout.split()) >= {"n1", "n2", "n3", "n4"}
