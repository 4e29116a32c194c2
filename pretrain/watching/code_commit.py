"""Which code a run is: the commit it was copied or started from."""

import json
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
# What slurm.submit leaves beside the code that it copies.
_COPIED = "commit.json"
_LONGEST_SECONDS = 10.0


def code_commit(root: Path = _ROOT) -> str:
    """Return the commit of the code below `root`, with "+changes" where it differs; "unknown" without git."""
    try:
        told = json.loads((root / _COPIED).read_text())
        return str(told["commit"]) + ("+changes" if told["changed"] else "")
    except (OSError, ValueError, KeyError, TypeError):
        pass
    commit = _git(root, "rev-parse", "HEAD")
    if not commit or Path(_git(root, "rev-parse", "--show-toplevel")) != root:  # another repository's
        return "unknown"
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=False, timeout=_LONGEST_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
