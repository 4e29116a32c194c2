"""Whether the tests have teeth: each bug planted anywhere in the tree must turn the tests red that guard it.

    cd tests && python -m faults.bugs [--only N,M] [--report FILE]

Each bug is applied to a copy of the tree, where its tests run in a child that is forked from this process,
which has imported what is heavy and nothing of ours. First all these tests must be green without a bug.
"""

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults.bug_table import BUGS, Bug

_ROOT = Path(__file__).resolve().parents[2]
_KEPT = ("conf", "data_prep", "pretrain", "slurm", "tests", "pyproject.toml")
_NO_TESTS = 70  # a child's code if pytest itself cannot be run
_CAUGHT = 1  # pytest's exit code for failed tests; the others are 0, passed, and our own mistakes


def main() -> int:
    """Print the table; return 1 if a bug survived or could not be planted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", type=lambda text: [int(each) for each in text.split(",")])
    parser.add_argument("--report", type=Path)
    asked = parser.parse_args()
    chosen = [BUGS[number] for number in asked.only] if asked.only is not None else list(BUGS)
    import_what_is_heavy()
    began = time.monotonic()
    lines = [f"commit {_commit()}, Python {sys.version.split()[0]}", *outcomes(chosen)]
    survived = [line for line in lines[1:] if not line.startswith("caught")]
    lines.append(f"{len(chosen)} bugs, {len(survived)} not caught, {time.monotonic() - began:.0f} s")
    print(lines[-1])
    if asked.report:
        asked.report.write_text("\n".join(lines) + "\n")
    return 1 if survived else 0


def outcomes(bugs: Sequence[Bug]) -> Iterator[str]:
    """Yield a line for each bug: caught, SURVIVED or why it could not be planted; printed as it comes."""
    nodes = sorted({node for bug in bugs for node in bug.tests})
    with copied_tree() as tree:
        code, said = run_tests(tree, nodes)
        if code:
            yield _printed(f"RED WITHOUT A BUG ({code}): {said[-2000:]}")
            return
        for number, bug in ((BUGS.index(each), each) for each in bugs):
            path = tree / bug.file
            source = path.read_text()
            if source.count(bug.old) != 1:
                yield _printed(
                    f"NOT PLANTED {number}: {bug.what} | {bug.file} has it {source.count(bug.old)} times"
                )
                continue
            path.write_text(source.replace(bug.old, bug.new))
            code, said = run_tests(tree, bug.tests)
            path.write_text(source)
            what = {0: "SURVIVED", _CAUGHT: "caught"}.get(code, f"BROKEN ({code})")
            yield _printed(f"{what} {number}: {bug.what} | {bug.file} | {_reason(said)}")


def import_what_is_heavy() -> None:
    """Import what the tests need and takes seconds, but no module that a bug could be in."""
    import deepspeed
    import hydra
    import hypothesis
    import pytest
    import torch._dynamo
    import transformers.models.gpt2

    assert all((deepspeed, hydra, hypothesis, pytest, torch, transformers))
    with contextlib.suppress(ImportError):
        import deepspeed.runtime.zero.muon.muon_optimizer
    ours = {name for name in sys.modules if name.split(".")[0] in ("conf", "pretrain", "data_prep", "slurm")}
    assert ours <= {"conf"}, ours


@contextlib.contextmanager
def copied_tree() -> Iterator[Path]:
    """Yield a copy of the tree, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="bugs-") as name:
        tree = Path(name)
        for each in _KEPT:
            source = _ROOT / each
            if source.is_dir():
                shutil.copytree(source, tree / each, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, tree / each)
        yield tree


def run_tests(tree: Path, nodes: Sequence[str]) -> tuple[int, str]:
    """Run tests in a forked child inside `tree`; return pytest's exit code and what was printed."""
    output = tree / "output.txt"
    child = os.fork()
    if child == 0:
        code = _NO_TESTS
        try:
            code = _in_child(tree, nodes, output)
        except BaseException:  # a child has nobody to raise to
            traceback.print_exc()
        os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, output.read_text(errors="replace") if output.exists() else ""


def _in_child(tree: Path, nodes: Sequence[str], output: Path) -> int:
    import hypothesis
    import pytest

    # To find that a test fails is enough; what the smallest failure is takes minutes.
    hypothesis.settings.register_profile(
        "bugs", phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
    )
    hypothesis.settings.load_profile("bugs")
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", 0, closefd=False), write_through=True)
    os.chdir(tree)
    sys.dont_write_bytecode = True  # a bug of the same second and length would hide behind the cache
    for name in [each for each in sys.modules if each.split(".")[0] in ("conf", "faults")]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(path for path in sys.path if not _is_ours(path))]
    os.environ["PYTHONPATH"] = str(tree)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    quiet = ["-q", "-x", "--no-header", "-p", "no:xdist", "-W", "ignore:Module already imported"]
    return int(pytest.main([*quiet, *nodes]))


def _is_ours(path: str) -> bool:
    """Say whether what is imported from `path` is this tree's; its environment may lie within it."""
    return Path(path or ".").resolve().is_relative_to(_ROOT) and "site-packages" not in path


def _reason(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith("E  ")]
    return " ".join(lines[0].split())[2:110] if lines else ""


def _commit() -> str:
    command = ["git", "-C", str(_ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _printed(line: str) -> str:
    print(line, flush=True)
    return line


if __name__ == "__main__":
    sys.exit(main())
