"""The wheel: whole in itself, outside the checkout, with conf/ and every file that is read at run time."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
    """Install the wheel alone in a new environment; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(f"{_site_packages()}\n")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return folder / "bin" / "python"


def _site_packages() -> str:
    """Return where this environment's packages are; its editable install of the project is not among them."""
    return next(path for path in sys.path if path.endswith("site-packages"))


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
def test_outside_the_checkout_it_prepares_plans_and_trains(python: Path, tmp_path: Path):
    where = run(python, tmp_path, "-c", "import conf, pretrain; print(conf.__file__, pretrain.__file__)")
    assert str(ROOT) not in where.stdout, where.stdout
    (tmp_path / "text.txt").write_text("".join(f"Line {n} of a text.\n" for n in range(3000)))
    sizes = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1"]
    for arguments in (
        ("-m", "data_prep.prepare", "corpus=text", "corpus.paths=[text.txt]", "output=shards", *sizes),
        ("-m", "data_prep.finalize", "output=shards"),
        ("-m", "pretrain.plan", "experiment=gpt2_124m"),
        (
            "-m",
            "pretrain.train",
            "experiment=smoke",
            "data.index=shards/index.json",
            "run_dir=run",
            "steps=2",
        ),
    ):
        done = run(python, tmp_path, *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    assert (tmp_path / "run" / "checkpoints" / "latest").exists()
