"""A process as `python PROGRAM …` starts it, but from a parent that has imported torch and the trainer.

An import costs seven seconds of CPU, a fork some hundredths. What cannot be had this way is another
PYTHONPATH, or whatever else Python reads only when it starts.
"""

import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import forkserver
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["preloaded"])


class WarmProcess:
    """A running program, with the part of subprocess.Popen's face that tests use."""

    def __init__(self, arguments: Sequence[str], *, log: Path, environment: dict[str, str]) -> None:
        """Start `arguments`, as in ("-m", "pretrain.train", "steps=3"); its output goes to `log`."""
        _start_server()
        given = (list(arguments), str(log), environment, str(Path.cwd()))
        self._process = _SERVER.Process(target=_become, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, minus the signal's number if one ended it; None if it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Return the exit code; raise TimeoutExpired if there is none within `timeout` seconds."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def _start_server() -> None:
    """Start the parent where it finds what it is to import: it passes over in silence what it does not."""
    before = os.environ.get("PYTHONPATH")
    root = Path(__file__).parents[2]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), str(Path(__file__).parent), before)))
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _become(arguments: list[str], log: str, environment: dict[str, str], directory: str) -> None:
    """Be the program `arguments` in this process, which has just been forked."""
    assert "preloaded" in sys.modules, "the parent has imported nothing"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    _arm(environment)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


def _arm(environment: dict[str, str]) -> None:
    """Do what the trainer's modules do with the environment while they are imported."""
    from pretrain.storage import faults

    faults.configure(environment.get("FAULTS"), rank=int(environment.get("RANK", "0")))
