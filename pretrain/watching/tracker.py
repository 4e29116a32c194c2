"""What a process may say about its run: numbers, events and alerts, and that it has ended."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pretrain.watching.metrics_log import MetricsLog
from pretrain.watching.redaction import redacted, redacted_text
from pretrain.watching.watch import Watch


class Mirror(Protocol):
    """A second place for rows and alerts, which takes them without waiting and never raises."""

    def log(self, row: dict[str, Any]) -> None:
        """Take one row of metrics."""
        ...

    def alert(self, title: str, text: str, level: str) -> None:
        """Pass an alert on to a person."""
        ...

    def finish(self, exit_code: int) -> None:
        """Send what is left, within a bounded time."""
        ...


class Tracker:
    """Takes a run's numbers, events and alerts. No method raises or waits, but for `finish`."""

    def __init__(
        self,
        record: MetricsLog | None,
        mirror: Mirror | None,
        *,
        say: Callable[[str], None],
        losses: list[float] | None = None,
    ):
        self._record = record
        self._mirror = mirror
        self._say = say
        self._watch = Watch(losses or [])

    def log(self, step: int, tokens: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of `step` (optimizer steps done), `tokens` tokens into the run."""
        if self._record is None:
            return
        row = {"step": step, "tokens": tokens, **metrics}
        added, alerts = self._watch.look(step, metrics)
        row.update(added)
        self._record.write(row)
        if self._mirror:
            self._mirror.log(row)
        for alert in alerts:
            self.alert(alert.title, alert.text, alert.level)

    def alert(self, title: str, text: str, level: str = "WARN") -> None:
        """Tell a person: in the record, on the console, and by W&B. Levels: INFO, WARN, ERROR."""
        if self._record is None:
            return
        title, text = redacted_text(title), redacted_text(text)
        self._record.write({"alert": title, "text": text, "level": level})
        self._say(f"{level}: {title}: {text}")
        if self._mirror:
            self._mirror.alert(title, text, level)

    def event(self, kind: str, **fields: Any) -> None:
        """Record that something happened, such as `event("checkpoint", step=100, seconds=1.2)`."""
        if self._record is not None:
            self._record.write({"event": kind, **redacted(fields)})

    def finish(self, exit_code: int = 0) -> None:
        """Close the record and W&B, within the configured time; a second call does nothing."""
        record, self._record = self._record, None
        if record is None:
            return
        record.write({"event": "finished" if exit_code == 0 else "stopped", "exit_code": exit_code})
        record.close()
        if self._mirror:
            self._mirror.finish(exit_code)
