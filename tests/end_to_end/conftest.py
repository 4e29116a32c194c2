import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of real text, some 300,000 tokens of the standard library; its index.json."""
    folder = tmp_path_factory.mktemp("shards")
    names = ("argparse", "ast", "doctest", "inspect", "pydoc", "subprocess", "tarfile", "turtle", "typing")
    found = [Path(json.__file__).parents[1] / f"{name}.py" for name in names]
    paths = [str(path) for path in found if path.exists()]
    prepare = ["corpus=text", f"corpus.paths={json.dumps(paths)}", f"output={folder}"]
    small = ["packing.block_tokens=4096", "validation.fraction=0.2"]
    for arguments in (["data_prep.prepare", *prepare, *small], ["data_prep.finalize", f"output={folder}"]):
        done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "index.json"


@pytest.fixture
def no_wandb_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the tests, or this machine, say about W&B."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
