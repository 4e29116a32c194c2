"""What a run leaves is its user's alone, whatever the umask of the shell that started it."""

import os
import stat
import subprocess
import sys

import pytest
from endurance import TINY

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_nobody_else_may_read_or_write_a_run_directory_or_any_file_in_it(shards, tmp_path, umask):
    run_dir = tmp_path / "group" / "run"
    places = [f"data.index={shards}", f"run_dir={run_dir}", "steps=4"]
    done = subprocess.run(
        [sys.executable, "-m", "pretrain.train", *TINY, *places],
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FAULTS": "commit.manifest:eio@1"},  # so that there is an alert, too
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in run_dir.rglob("*")}
    assert names >= {"metrics.jsonl", "ledger.jsonl", "alerts.jsonl", "attempts.jsonl", "MANIFEST.json"}
    open_to_others = {
        str(path): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in (run_dir, *run_dir.rglob("*"))
        if path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    }
    assert open_to_others == {}
