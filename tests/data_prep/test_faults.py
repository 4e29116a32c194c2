"""Data preparation killed, or refused by the disk, at every system call that changes something.

SQLite's loop technique: fail the first such call, then the second, and so on until the job ends by itself;
after each, what lies on disk must be sound and the same command must finish the job with the same bytes.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from corpora import as_jsonl, documents, hashes

from conf.exits import Exit
from data_prep import finalize, prepare, verify

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.timeout(1800),
]

CALLS = ["write", "pwrite64", "fsync", "rename", "link", "unlink", "unlinkat", "mkdir", "rmdir", "flock"]
_JOB = """
from conf.command import run
from data_prep import finalize, prepare, units
units._SMALLEST_UNIT = 1 << 14

def main(overrides):
    prepare.main(overrides)
    finalize.main([overrides[0]])

run(main, name="job", config="prepare", usage="")
"""


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    as_jsonl(tmp_path / "a.jsonl", documents(40))
    return [
        f"output={tmp_path}/data",
        *("corpus=jsonl", f"corpus.paths=[{tmp_path}/a.jsonl]", "workers=1"),
        *("packing.block_tokens=1024", "packing.shard_tokens=4096", "validation.fraction=0.2"),
    ]


@pytest.fixture
def expected(overrides: list[str], tmp_path: Path) -> dict[str, str]:
    """Return the hashes of an uninterrupted run."""
    finish([f"output={tmp_path}/whole", *overrides[1:]])
    return hashes(tmp_path / "whole")


def finish(overrides: list[str]) -> None:
    prepare.main(overrides)
    finalize.main([overrides[0]])


def points(overrides: list[str], call: str, fault: str, step: int = 1) -> Iterator[tuple[int, int, str]]:
    """Yield (point, exit status, standard error) of the job, with the fault at the 1st, 2nd, … `call`."""
    output = Path(overrides[0].removeprefix("output="))
    for point in range(1, 10_000, step):
        shutil.rmtree(output, ignore_errors=True)
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        inject = ["-e", f"inject={call}:{fault}:when={point}"]
        job = [sys.executable, "-B", "-c", _JOB, *overrides]
        done = subprocess.run([*strace, *inject, *job], check=False, capture_output=True, text=True)
        if done.returncode == 0:
            return
        yield point, done.returncode, done.stderr


def assert_sound(output: Path, expected: dict[str, str]) -> None:
    """Check that what is visible under its final name is whole: a shard is right, an index has all shards."""
    for path in output.glob("*.tar"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected[path.name]
    if (output / "index.json").exists():
        verify.main([f"output={output}"])


def sweep(overrides: list[str], expected: dict[str, str], call: str, fault: str, step: int = 1) -> int:
    """Try every point; return how many there were."""
    output = Path(overrides[0].removeprefix("output="))
    count = 0
    for point, status, message in points(overrides, call, fault, step):
        if fault.startswith("error"):
            assert status == Exit.DISK, (call, fault, point, message)
            assert message.strip().count("\n") == 0, message
        assert_sound(output, expected)
        finish(overrides)
        assert hashes(output) == expected, (call, fault, point)
        assert not (output / "spill").exists()
        count += 1
    return count


def test_a_kill_at_some_renames_is_harmless(overrides: list[str], expected: dict[str, str]):
    assert sweep(overrides, expected, "rename", "signal=KILL", step=5) >= 2


def test_a_full_disk_at_some_syncs_is_one_line(overrides: list[str], expected: dict[str, str]):
    assert sweep(overrides, expected, "fsync", "error=ENOSPC", step=12) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_a_kill_at_every_system_call_is_harmless(call: str, overrides: list[str], expected: dict[str, str]):
    count = sweep(overrides, expected, call, "signal=KILL")
    print(f"{count} kills at {call}")


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT"])
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "link", "mkdir"])
def test_an_error_at_every_system_call_is_one_line_and_harmless(
    call: str, error: str, overrides: list[str], expected: dict[str, str]
):
    count = sweep(overrides, expected, call, f"error={error}")
    print(f"{count} times {error} at {call}")
