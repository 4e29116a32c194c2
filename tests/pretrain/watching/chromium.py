"""A real browser for tests: Chromium without a window, driven through its debugging pipe."""

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def executable() -> str | None:
    """Return the path of Chromium or Chrome, None where there is neither."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page in one browser; remembers what it requested and what it complained about."""

    def __init__(self, width: int = 1440, height: int = 900, *, dark: bool = False):
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        self._number = 0
        self._unread = b""
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._start()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def _start(self) -> None:
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        # Chromium reads its commands from file 3 and answers on file 4: move ours out of their way first.
        commands, answers = (fcntl.fcntl(file, fcntl.F_DUPFD, 10) for file in (to_read, to_write))
        moves = f"os.dup2({commands}, 3); os.dup2({answers}, 4)"
        program = f"import os, sys; {moves}; os.execv(sys.argv[1], sys.argv[1:])"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(executable()), *_FLAGS, f"--user-data-dir={self._profile}"],
            pass_fds=(commands, answers),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for file in (to_read, to_write, commands, answers):
            os.close(file)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # its children too, which would go on writing
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._notice(answer)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            chunk = os.read(self._in, 2**20)
            if not chunk:
                raise RuntimeError("Chromium ended")
            self._unread += chunk
        text, _, self._unread = self._unread.partition(b"\0")
        return json.loads(text)

    def _notice(self, event: dict[str, Any]) -> None:
        detail = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(detail["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(detail["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if detail["type"] in {"error", "warning"}:
                self.complaints.append(str(detail["args"]))
            case "Log.entryAdded" if detail["entry"]["level"] in {"error", "warning"}:
                self.complaints.append(str(detail["entry"]))

    def open(self, url: str) -> float:
        """Load a page and return the seconds until its scripts had run."""
        start = time.monotonic()
        self.send("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")
        return time.monotonic() - start

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.value(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{expression} did not become true")
            time.sleep(0.05)

    def move_to(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag the mouse with its left button from one place to another."""
        steps = [("mouseMoved", start), ("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)]
        for kind, (x, y) in steps:
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def screenshot(self, path: Path) -> None:
        """Write what is seen as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
