"""A real S3 server in a process of its own, and how a client in the tests finds it."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import s3fs


@contextlib.contextmanager
def served(program: str) -> Iterator[int]:
    """Run a program that prints its port and ends when its standard input does; yield the port."""
    command, pipe = [sys.executable, "-c", program], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as job:
        assert job.stdin is not None
        assert job.stdout is not None
        yield int(job.stdout.readline())
        job.stdin.close()
        assert job.wait(30) == 0


def store_at(port: int, monkeypatch: pytest.MonkeyPatch) -> s3fs.S3FileSystem:
    """Return the store, and let the commands find it as they find any other: by the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem()
