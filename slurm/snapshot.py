"""Which code a run uses: a copy made when it is submitted, with the commit and the differences from it.

Jobs wait for hours; whoever edits the checkout meanwhile changes no run that is in the queue.
"""

import json
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("conf", "data_prep", "pretrain", "slurm")


def take(directory: Path, root: Path = ROOT) -> str:
    """Copy the packages into `directory`/code, in place of an earlier copy; return the commit in words."""
    fresh, code = directory / ".code", directory / "code"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for package in PACKAGES:
        shutil.copytree(root / package, fresh / package, ignore=shutil.ignore_patterns("__pycache__"))
    commit, difference = state(root)
    (fresh / "commit.json").write_text(json.dumps({"commit": commit, "changed": bool(difference)}) + "\n")
    (fresh / "changes.patch").write_bytes(difference)
    shutil.rmtree(code, ignore_errors=True)
    fresh.rename(code)
    return f"{commit[:12]}{' with changes' if difference else ''}"


def state(root: Path) -> tuple[str, bytes]:
    """Return the commit of the checkout and a patch of all that differs from it; ("none", b"") without git.

    Files that git does not track yet are in the copy, not in the patch.
    """
    commit = _git(root, "rev-parse", "HEAD").decode().strip()
    return (commit, _git(root, "diff", "HEAD", "--", *PACKAGES)) if commit else ("none", b"")


def _git(root: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return done.stdout if done.returncode == 0 else b""
