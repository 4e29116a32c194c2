"""The wheel: whole in itself, outside the checkout, with conf/ and every file that is read at run time."""

import os
import shutil
import subprocess
import sys
import urllib.request
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Where PyTorch's builds without CUDA are; see the Makefile.
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
PACKAGES = ("conf", "data_prep", "pretrain", "slurm")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, as `pip install .` does."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel and its dependencies in a new environment, from pip's cache or the network."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True, symlinks=True)
    # In one command, so that no other torch is taken; of the build that this machine needs.
    torch, deepspeed = metadata.version("torch"), metadata.version("deepspeed")
    install = ["-m", "pip", "install", "--quiet", f"torch=={torch}", f"deepspeed=={deepspeed}", str(wheel)]
    if torch.endswith("+cpu") and _reachable(CPU_BUILDS):
        install += ["--extra-index-url", CPU_BUILDS]
    done = run(folder / "bin" / "python", folder, *install)
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "python"


def _reachable(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/", timeout=5).close()
    except OSError:
        return False
    return True


def run(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_wheel_holds_every_file_that_is_read_at_run_time(wheel: Path):
    inside = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wanted = {name for name in tracked.stdout.split() if not name.endswith(".md")}
    assert wanted - inside == set()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_installed_alone_it_prepares_plans_and_trains_with_files_of_the_users_own(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    where = run(python, tmp_path, "-c", "import conf, pretrain, torch; print(conf, pretrain, torch)")
    assert where.stdout.count(str(python.parents[1])) == 3, where.stdout + where.stderr
    (tmp_path / "text.txt").write_text("".join(f"Line {n} of a text.\n" for n in range(3000)))
    for group in ("corpus", "cluster"):
        (tmp_path / "own" / group).mkdir(parents=True)
    (tmp_path / "own" / "corpus" / "mine.yaml").write_text("kind: text\npaths: [text.txt]\n")
    (tmp_path / "own" / "cluster" / "site.yaml").write_text("defaults: [h100x8_infiniband]\nname: site\n")
    monkeypatch.setenv("PRETRAIN_CONF", str(tmp_path / "own"))
    sizes = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1"]
    given = ["experiment=smoke", "data.index=shards/index.json", "run_dir=run", "steps=2"]
    for arguments in (
        ("pretrain.doctor", "ranks=0"),
        ("data_prep.prepare", "corpus=mine", "output=shards", *sizes),
        ("data_prep.finalize", "output=shards"),
        ("pretrain.plan", "experiment=gpt2_124m", "cluster=site"),
        ("pretrain.train", *given),
    ):
        done = run(python, tmp_path, "-m", *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()
