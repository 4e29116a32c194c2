"""Who gets the live page: browsers on this machine, under its own name, and nobody else."""

import contextlib
import gzip
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from conf.exits import ConfigError
from pretrain.watching.run_log import RunLog, Updated, outcome, reading_ahead, updated
from pretrain.watching.run_page import Curves, data_text, page
from pretrain.watching.run_sketch import sketch

PORT = 8765
_MORE_PORTS = 20
# Fast and still a fifth of the size; the page travels through ssh.
_GZIP_LEVEL = 1
_LOCAL_NAMES = ("127.0.0.1", "localhost")
# Data made anew without news, so that "no sign of life" shows.
_STALE_SECONDS = 60
# Of all readers but one: on two cores under a load of 5 a page of ten long runs stood after 3.9 s, not 7.
# Were that one nice too, the last row would wait for all else that runs here: once for 35 s, not 9.
_READERS_NICENESS = 10


class LiveRuns:
    """The runs that a live page shows; new ones appear by themselves."""

    def __init__(self, find: Callable[[], list[Path]]):
        self._find = find
        self._known: dict[Path, RunLog] = {}
        self._lock = threading.Lock()
        self._complaints: set[str] = set()
        self._data = ("", "")
        self._under_way: dict[Path, Future[Updated]] = {}
        self._sketches: dict[Path, RunLog] = {}
        self._curves = Curves()

    def read_ahead(self) -> None:
        """Begin to read long records, before there are threads; a page shows sketches of them until then."""
        paths = self._find()
        under_way = reading_ahead([RunLog(path) for path in paths], niceness=_READERS_NICENESS)
        self._under_way = dict(zip(paths, under_way, strict=False))
        self._sketches = {path: sketch(path) for path in self._under_way}

    def page(self) -> str:
        """Return the whole page with what is known now."""
        with self._lock:
            runs = self._shown()
            return page(runs, live=True, reading=len(self._under_way), curves=self._curves)

    def updated(self) -> list[RunLog]:
        """Return the runs whose records have been read, with what they have logged by now."""
        with self._lock:
            return self._updated(self._find())

    def data(self, known_tag: str) -> tuple[str, str | None]:
        """Return (tag, data); no data if the caller's tag says that it has them already."""
        with self._lock:
            runs = self._shown()
            state = [f"{run.run_dir}:{run.bytes_read}" for run in runs]
            tag = f'"{hash((*state, int(time.time() / _STALE_SECONDS))):x}"'
            if tag == known_tag:
                return tag, None
            if self._data[0] != tag:
                text = data_text(runs, live=True, reading=len(self._under_way), curves=self._curves)
                self._data = (tag, text)
            return self._data

    def _shown(self) -> list[RunLog]:
        paths = self._find()
        shown = {run.run_dir: run for run in self._updated(paths)} | self._sketches
        return [shown[path] for path in paths if path in shown]

    def _updated(self, paths: Sequence[Path]) -> list[RunLog]:
        for path in [path for path, read in self._under_way.items() if read.done()]:
            self._sketches.pop(path, None)
            self._known[path] = outcome(self._under_way.pop(path))[0]
        there = [path for path in paths if path not in self._under_way]
        found = updated([self._known.get(path) or RunLog(path) for path in there])
        for run, error in found:
            self._known[run.run_dir] = run
            if error is not None and str(error) not in self._complaints:  # the others are still worth seeing
                self._complaints.add(str(error))
                print(error, file=sys.stderr, flush=True)
        return [run for run, _ in found]


def server(runs: LiveRuns, port: int | None) -> ThreadingHTTPServer:
    """Return a server of the live page on 127.0.0.1, not yet serving.

    Without a port it is PORT, or the next one that nobody uses: a login node has many users.
    Raises ConfigError if the port is taken.
    """
    handler = type("Handler", (_Handler,), {"runs": runs})
    if port is None:
        for usual in range(PORT, PORT + _MORE_PORTS):
            with contextlib.suppress(OSError):
                return ThreadingHTTPServer(("127.0.0.1", usual), handler)
    try:
        return ThreadingHTTPServer(("127.0.0.1", port or 0), handler)
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be used ({error.strerror}); choose another with port=…"
        ) from error


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    runs: LiveRuns

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _LOCAL_NAMES:  # a foreign page that has rebound its name to this machine
            self._answer(403, "text/plain", "this page is for 127.0.0.1 only")
        elif self.path == "/":
            self._answer(200, "text/html; charset=utf-8", self.runs.page())
        elif self.path == "/data.json":
            tag, text = self.runs.data(self.headers.get("If-None-Match", ""))
            self._answer(200 if text is not None else 304, "application/json", text or "", tag)
        else:
            self._answer(404, "text/plain", "nothing here; the page is at /")

    def log_message(self, format: str, *args: object) -> None:
        """Keep silent: a line per refresh would bury everything else."""

    def _answer(self, status: int, kind: str, text: str, tag: str = "") -> None:
        body = text.encode()
        self.send_response(status)
        if body and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, _GZIP_LEVEL)
            self.send_header("Content-Encoding", "gzip")
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        if status != 304:  # which has no body, and must not say so
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
