"""A web server of files that answers ranges, slowly, sometimes wrongly, as real storage does."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class RangeServer:
    """The files of one folder, what is wrong with their server, and what it was asked."""

    folder: Path
    latency_seconds: float = 0.0
    # Of each request: "" for a good answer, or "500", "reset", "short", "garbage", "hang", "whole".
    fault: Callable[[int], str] = lambda _: ""
    url: str = ""
    requests: int = 0
    bytes_sent: int = 0
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def now_and_then(share: float, what: str = "500", seed: int = 0) -> Callable[[int], str]:
    """Return a fault that hits a random share of the requests."""
    chance = random.Random(seed)
    return lambda _: what if chance.random() < share else ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: RangeServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server_of
        with server.lock:
            server.requests += 1
            fault = server.fault(server.requests)
        time.sleep(server.latency_seconds)
        path = server.folder / self.path.lstrip("/")
        if fault == "hang":
            time.sleep(30)
        if fault.isdigit():
            self.send_error(int(fault))
        elif not path.is_file():
            self.send_error(404)
        else:
            self._send(path, fault)

    def _send(self, path: Path, fault: str) -> None:
        content, status = path.read_bytes(), 200
        if (asked := self.headers.get("Range")) and fault != "whole":
            first, _, last = asked.removeprefix("bytes=").partition("-")
            if int(first) >= len(content):
                return self.send_error(416)
            content, status = content[int(first) : int(last) + 1], 206
            with self.server_of.lock:
                self.server_of.ranges.append((path.name, int(first), len(content)))
        if fault == "garbage":
            content = bytes(byte ^ 1 for byte in content[:100]) + content[100:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "HEAD":
            return None
        self.close_connection = self.close_connection or fault in {"short", "reset"}
        content = {"short": content[: len(content) // 2], "reset": b""}.get(fault, content)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a reader that has seen enough
            self.wfile.write(content)
        with self.server_of.lock:
            self.server_of.bytes_sent += len(content)
        return None

    def log_message(self, *_: object) -> None:
        """Keep silent."""


@contextlib.contextmanager
def served(folder: Path, **settings) -> Iterator[RangeServer]:
    """Serve a folder on 127.0.0.1 for the length of the block."""
    server = RangeServer(folder, **settings)
    handler = type("Handler", (_Handler,), {"server_of": server})
    listener = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    listener.daemon_threads = True
    server.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
