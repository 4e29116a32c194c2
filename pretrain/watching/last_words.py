"""What is said of a run whose own process could not: killed, hung, or crashed.

Called by the watchdog, a process that imports nothing heavy, when rank 0's attempt is over.
"""

import contextlib
import sys
from pathlib import Path

from pretrain.watching.alerts import AlertChannel
from pretrain.watching.metrics_log import MetricsLog
from pretrain.watching.redaction import redacted_text
from pretrain.watching.tracker import end_of_run

_LONGEST_WAIT_SECONDS = 5.0


def last_words(run_dir: Path, attempt: int, exit_code: int, reason: str) -> None:
    """Record that an attempt has ended with `exit_code`, and alert. Never raises."""
    alert = end_of_run(exit_code, redacted_text(reason))
    _say(f"{alert.level}: {alert.title}: {alert.text}")
    with contextlib.suppress(OSError):  # the storage may be what ended the run
        record = MetricsLog(run_dir, attempt=attempt, say=_say)
        record.write({"alert": alert.title, "text": alert.text, "level": alert.level})
        record.write({"event": "stopped" if exit_code else "finished", "exit_code": exit_code})
        record.close()
    channel = AlertChannel(run_dir, attempt=attempt, say=_say)
    channel.alert(alert.title, alert.text, alert.level)
    channel.end(exit_code)
    channel.wait(_LONGEST_WAIT_SECONDS)


def _say(text: str) -> None:
    print(f"watchdog: {text}", file=sys.stderr, flush=True)
