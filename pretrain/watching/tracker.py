"""What a process may say about its run: numbers, events and alerts, and that it has ended."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from conf.exits import Exit
from pretrain.watching.metrics_log import MetricsLog
from pretrain.watching.redaction import redacted, redacted_text
from pretrain.watching.watch import Alert, Watch


class Mirror(Protocol):
    """A second place for what is recorded. No method raises; none waits, but for `wait`."""

    def log(self, row: dict[str, Any]) -> None:
        """Take one row of metrics."""
        ...

    def alert(self, title: str, text: str, level: str) -> None:
        """Pass an alert on to a person."""
        ...

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Take an event, if this place shows such events."""
        ...

    def end(self, exit_code: int) -> None:
        """Begin to send what is left: nothing more will come."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when all is sent, or when `seconds` have passed."""
        ...


class Tracker:
    """Takes a run's numbers, events and alerts. No method raises or waits, but for `finish`."""

    def __init__(
        self,
        record: MetricsLog | None,
        mirrors: Sequence[Mirror],
        *,
        say: Callable[[str], None],
        watch: Watch | None = None,
        finish_timeout_seconds: float = 8.0,
    ):
        self._record = record
        self._mirrors = mirrors
        self._say = say
        self._watch = watch or Watch()
        self._finish_timeout_seconds = finish_timeout_seconds

    def log(self, step: int, tokens: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of `step` (optimizer steps done), `tokens` tokens into the run."""
        if self._record is None:
            return
        row = {"step": step, "tokens": tokens, **metrics}
        added, alerts = self._watch.look(step, metrics)
        row.update(added)
        self._record.write(row)
        for mirror in self._mirrors:
            mirror.log(row)
        for alert in alerts:
            self.alert(alert.title, alert.text, alert.level)

    def alert(self, title: str, text: str, level: str = "WARN") -> None:
        """Tell a person: in the record, on the console, by W&B and the webhook. Levels: INFO, WARN, ERROR.

        The title names the cause, always in the same words; the text says what is particular this time.
        """
        if self._record is None:
            return
        title, text = redacted_text(title), redacted_text(text)
        self._record.write({"alert": title, "text": text, "level": level})
        self._say(f"{level}: {title}: {text}")
        for mirror in self._mirrors:
            mirror.alert(title, text, level)

    def event(self, kind: str, **fields: Any) -> None:
        """Record that something happened, such as `event("checkpoint", step=100, seconds=1.2)`."""
        if self._record is None:
            return
        public = redacted(fields)
        self._record.write({"event": kind, **public})
        for mirror in self._mirrors:
            mirror.event(kind, public)

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Record what the model wrote after `prompt`."""
        self.event("sample", step=step, prompt=prompt, text=text)

    def table(self, name: str, step: int, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Record a table, such as one score per task: `rows` hold a value per column."""
        self.event("table", name=name, step=step, columns=list(columns), rows=[list(row) for row in rows])

    def saved(self, step: int, path: Path) -> None:
        """Record that the state of `step` counts, and lies at `path`."""
        self.event("saved", step=step, path=str(path.resolve()))

    def finish(self, exit_code: int = 0, reason: str | None = None) -> None:
        """Close the record and all else, within the configured time; a second call does nothing.

        With a `reason` a person is told that the run has ended, and how.
        """
        if self._record is None:
            return
        if reason is not None:
            alert = end_of_run(exit_code, reason)
            self.alert(alert.title, alert.text, alert.level)
        record, self._record = self._record, None
        record.write({"event": "finished" if exit_code == 0 else "stopped", "exit_code": exit_code})
        record.close()
        deadline = time.monotonic() + self._finish_timeout_seconds
        for mirror in self._mirrors:
            mirror.end(exit_code)
        for mirror in self._mirrors:
            mirror.wait(max(0.0, deadline - time.monotonic()))


def end_of_run(exit_code: int, reason: str) -> Alert:
    """Return the alert that says how a run ended."""
    if exit_code == Exit.OK:
        return Alert("finished", reason, "INFO")
    if exit_code == Exit.REQUEUE:
        return Alert("requeue", f"{reason}; the same command goes on from there", "INFO")
    return Alert("failed", f"{reason} [exit {exit_code}]", "ERROR")
