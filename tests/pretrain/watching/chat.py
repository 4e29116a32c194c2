"""A chat's webhook on 127.0.0.1: takes messages, or refuses, or keeps one waiting."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T0SECRET/B0SECRET/canary-of-a-webhook"


class Chat:
    """The service. `status` and `delay_seconds` plant faults."""

    def __init__(self, status: int = 200, delay_seconds: float = 0.0) -> None:
        self.status = status
        self.delay_seconds = delay_seconds
        self.asked = 0
        self.closing = threading.Event()
        self.messages: list[str] = []
        handler = type("Handler", (_Handler,), {"chat": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/services/{SECRET}"
        self.environment = {"PRETRAIN_WEBHOOK_URL": self.url, "NO_PROXY": "127.0.0.1"}

    def __enter__(self) -> "Chat":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def titles(self) -> list[str]:
        """Return the causes that were told, in the order of telling."""
        return [text.split(": ")[1] for text in self.messages]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Stay silent: a client that was made to wait has gone."""


class _Handler(BaseHTTPRequestHandler):
    chat: Chat

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.chat.asked += 1
        self.chat.closing.wait(self.chat.delay_seconds)
        if self.chat.status == 200 and SECRET in self.path:
            self.chat.messages.append(body["text"])
        self.send_response(self.chat.status)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""
