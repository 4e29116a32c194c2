"""Where an alert goes besides the record: alerts.jsonl in the run directory, and a webhook if one is set."""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pretrain.watching import webhook

FILE_NAME = "alerts.jsonl"
# A cause that comes and goes all day is one message, not fifty; alerts.jsonl has them all.
SAME_CAUSE_SECONDS = 3600.0
# An exit that is told must not wait long for a chat service.
_LONGEST_WAIT_SECONDS = 5.0
_LONGEST_QUEUE = 100


class AlertChannel:
    """Passes alerts on. No method raises; a slow or refusing webhook costs messages, never time."""

    def __init__(self, run_dir: Path, *, attempt: int, say: Callable[[str], None]):
        self._run_dir = run_dir
        self._attempt = attempt
        self._say = say
        self._told_at: dict[str, float] = {}
        self._messages: queue.Queue[str | None] = queue.Queue(_LONGEST_QUEUE)
        self._complained = False
        self._thread: threading.Thread | None = None
        address = os.environ.get(webhook.VARIABLE, "")
        if address and (wrong := webhook.mistake(address)):
            self._complain(wrong)
        elif address:
            self._thread = threading.Thread(target=self._post, args=(address,), name="webhook", daemon=True)
            self._thread.start()

    def alert(self, title: str, text: str, level: str) -> None:
        """Append the alert to alerts.jsonl, and post it unless its cause was posted within the hour."""
        line = {"time": round(time.time(), 3), "attempt": self._attempt, "level": level}
        try:
            append(self._run_dir / FILE_NAME, {**line, "alert": title, "text": text})
        except OSError as error:
            self._complain(f"cannot write {self._run_dir / FILE_NAME} ({error.strerror}); training goes on")
        now = time.monotonic()
        if self._thread is None or now - self._told_at.get(title, -SAME_CAUSE_SECONDS) < SAME_CAUSE_SECONDS:
            return
        self._told_at[title] = now
        try:
            self._messages.put_nowait(message(self._run_dir, title, text, level))
        except queue.Full:
            self._complain("the webhook does not keep up; alerts.jsonl has every alert")

    def log(self, row: dict[str, Any]) -> None:
        """Pass over rows: only alerts are told."""

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Pass over events: only alerts are told."""

    def end(self, exit_code: int) -> None:
        """Let the thread end when all is posted."""
        try:
            self._messages.put_nowait(None)
        except queue.Full:
            self._thread = None

    def wait(self, seconds: float) -> None:
        """Wait for the last messages, but a few seconds at most."""
        if self._thread is not None:
            self._thread.join(min(seconds, _LONGEST_WAIT_SECONDS))

    def _post(self, address: str) -> None:
        while (text := self._messages.get()) is not None:
            if wrong := webhook.post(address, text):
                self._complain(f"{wrong}; alerts.jsonl has every alert")

    def _complain(self, text: str) -> None:
        """Say what is wrong with telling, once: it would be wrong every time."""
        if not self._complained:
            self._complained = True
            self._say(text)


def message(run_dir: Path, title: str, text: str, level: str) -> str:
    """Return an alert as one line for a chat."""
    return f"[{level}] {run_dir.resolve().name}: {title}: {' '.join(text.split())}"


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Add one line, by one write call, so that lines of several processes never mix."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.write(file, (json.dumps(line) + "\n").encode())
    finally:
        os.close(file)
