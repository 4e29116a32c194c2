"""How Weights & Biases hears of a run without being able to stop or slow it: the only file that knows wandb.

Whatever happens to it (no network, no key, a refusing or silent server, its process killed), training
goes on: a thread of its own talks to it, over a bounded queue. One run directory is one W&B run,
however many attempts it takes; its id lies in `<run_dir>/wandb_id`.
"""

import contextlib
import logging
import os
import queue
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.watching.redaction import redacted_text

MODES = ("auto", "online", "offline", "disabled")

# About 10 MB of rows: an hour of steps at 0.4 s while the service does not answer.
_LONGEST_QUEUE = 10_000
# Rows that a SIGKILL may cost W&B's own file; wandb's default is 15 s. metrics.jsonl loses none.
_FLUSH_SECONDS = 2
# wandb must give up before we do, so that it can close its file in order.
_MARGIN_SECONDS = 2.0
_NO_KEY = "no API key: set WANDB_API_KEY or run `wandb login`"
_LONGEST_TITLE = 64
_ALERT_PAUSE_SECONDS = 300
# W&B takes a table whole each time it grows.
_SAMPLE = ("step", "prompt", "text")
_MOST_SAMPLES = 200


@dataclass(frozen=True)
class WandbConfig:
    """Whether and how a run appears on Weights & Biases."""

    wandb: str = "auto"
    project: str = "gpt2"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    init_timeout_seconds: float = 30.0
    finish_timeout_seconds: float = 8.0

    def __post_init__(self) -> None:
        if self.wandb not in MODES:
            raise ValueError(f"tracking.wandb is '{self.wandb}'; choose one of: {', '.join(MODES)}")
        for name in ("init_timeout_seconds", "finish_timeout_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"tracking.{name} is {getattr(self, name)}; give a number above 0")


class WandbThread(threading.Thread):
    """Everything that touches wandb, in the order it was asked for; the first failure ends it."""

    def __init__(
        self,
        config: WandbConfig,
        run_dir: Path,
        *,
        settings: dict[str, Any],
        attempt: int,
        say: Callable[[str], None],
    ):
        super().__init__(name="wandb", daemon=True)
        self._config = config
        self._run_dir = run_dir
        self._settings = {**settings, "attempt": attempt}
        self._attempt = attempt
        self._say = say
        self._calls: queue.SimpleQueue[Callable[[Any], None] | None] = queue.SimpleQueue()
        self._samples: list[list[Any]] = []
        self._without_tables = False
        self._dropped = 0
        self._exit_code = 0

    def log(self, row: dict[str, Any]) -> None:
        """Queue one row."""
        # Never step=: wandb drops rows that go back, as they do after resuming from a checkpoint.
        self._put(lambda run: run.log({"attempt": self._attempt, **row}))

    def alert(self, title: str, text: str, level: str) -> None:
        """Queue an alert, which W&B mails or posts as its user has chosen."""
        self._put(lambda run: run.alert(title[:_LONGEST_TITLE], text, level, _ALERT_PAUSE_SECONDS))

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Show tables and samples as W&B tables, and in the summary where the newest state lies.

        Nothing of a state is sent.
        """
        if kind == "saved":
            known = {f"checkpoint/{name}": fields[name] for name in ("step", "path")}
            self._put(lambda run: run.summary.update(known))
        elif kind == "table":
            rows = [list(row) for row in fields["rows"]]
            self._put(lambda run: self._log_table(run, str(fields["name"]), list(fields["columns"]), rows))
        elif kind == "sample":
            self._samples = [*self._samples, [fields.get(name) for name in _SAMPLE]][-_MOST_SAMPLES:]
            rows = self._samples
            self._put(lambda run: self._log_table(run, "samples", list(_SAMPLE), rows))

    def end(self, exit_code: int) -> None:
        """Queue the end, after all that is queued."""
        self._exit_code = exit_code
        self._calls.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until all is sent, but not longer; then see to it that wandb cannot hold up the process."""
        self.join(seconds)
        if self.is_alive():
            self._say("W&B did not finish in time; metrics.jsonl has everything, `wandb sync` sends the rest")
            _kill_wandb_core()  # else wandb waits for it when the interpreter exits
            self.join(_MARGIN_SECONDS)

    def run(self) -> None:
        """Start wandb, hand it the calls, close it: the body of the thread."""
        try:
            run = self._opened_run()
            while (call := self._calls.get()) is not None:
                call(run)
            self._close(run)
        except ImportError as error:
            self._say(f"W&B is off: {error}; pip install wandb, or set tracking=disabled")
        except Exception as error:  # whatever it is, it must not reach training
            self._say(f"W&B is off from here on ({_first_line(error)}); metrics.jsonl has everything")
        finally:  # finish() alone may return before the file is complete
            with contextlib.suppress(Exception):
                sys.modules["wandb"].teardown()

    def _close(self, run: Any) -> None:
        directory = Path(run.dir).parent
        try:
            run.finish(exit_code=self._exit_code)
        except Exception as error:
            self._say(f"W&B lacks some rows ({_first_line(error)}); send them with `wandb sync {directory}`")

    def _log_table(self, run: Any, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Log a table. One that W&B does not take must not cost the rows that come after it."""
        try:
            run.log({name: sys.modules["wandb"].Table(columns=columns, data=rows)})
        except Exception as error:
            if not self._without_tables:
                self._without_tables = True
                self._say(f"W&B does not take the table {name} ({_first_line(error)})")

    def _put(self, call: Callable[[Any], None]) -> None:
        if not self.is_alive():
            return
        if self._calls.qsize() < _LONGEST_QUEUE:
            self._calls.put(call)
            return
        self._dropped += 1
        if self._dropped == 1:
            self._say("W&B does not keep up; rows are left out there, metrics.jsonl has everything")

    def _opened_run(self) -> Any:
        # Reports to wandb's makers are not ours to send from someone's cluster.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # On a full disk each line of wandb's own log would else be a traceback on the console.
        logging.raiseExceptions = False
        import wandb  # noqa: PLC0415  (absent, or 1 s to import, where nobody asked for it)

        wandb.setup(wandb.Settings(silent=True))  # what matters is said below, in one line
        if self._config.wandb == "auto":
            try:
                return self._initialised(wandb, "online")
            except Exception as error:
                self._say(f"W&B online is not to be had ({_first_line(error)}); recording offline")
                wandb.teardown()  # else the next init finds the run id "in use"
                return self._initialised(wandb, "offline")
        return self._initialised(wandb, self._config.wandb)

    def _initialised(self, wandb: Any, mode: str) -> Any:
        if mode == "online" and not wandb.login(prompt=False, verify=False):  # init would ask, and wait
            raise RuntimeError(_NO_KEY)
        config = self._config
        run = wandb.init(
            project=config.project,
            entity=config.entity,
            name=config.name or self._run_dir.resolve().name,
            group=config.group,
            tags=config.tags,
            id=_run_id(self._run_dir),
            resume="allow",
            mode=mode,
            dir=self._run_dir,
            config=self._settings,
            settings=wandb.Settings(
                init_timeout=config.init_timeout_seconds,
                finish_timeout=max(config.finish_timeout_seconds - _MARGIN_SECONDS, 1.0),
                x_transaction_log_flush_interval=_FLUSH_SECONDS,
                finish_timeout_raises=True,
                console="off",
                silent=True,
                save_code=False,
                # They would send the command line and the git remote as they are, secrets included.
                x_disable_meta=True,
                disable_git=True,
            ),
        )
        run.define_metric("tokens")
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        run.define_metric("val/loss", step_metric="step", summary="min,last")
        where = (
            run.url
            if mode == "online"
            else f"offline; send it later with `wandb sync {Path(run.dir).parent}`"
        )
        self._say(f"W&B: {where}")
        return run


def default_entity() -> str | None:
    """Return the user or team that the client takes where none is named, None if it knows none.

    Asks the service. Raises RuntimeError without a key, ImportError without wandb, or what the client raises.
    """
    import wandb  # noqa: PLC0415  (see above)

    wandb.setup(wandb.Settings(silent=True))
    if not wandb.login(prompt=False, verify=False):
        raise RuntimeError(_NO_KEY)
    api = wandb.Api()
    return api.settings["entity"] or api.default_entity


def _run_id(run_dir: Path) -> str:
    """Return the W&B id of this run directory, made once and kept over all attempts."""
    path = run_dir / "wandb_id"
    if path.exists() and (known := path.read_text().strip()):
        return known
    path.write_text(f"{secrets.token_hex(4)}\n")
    return path.read_text().strip()


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    return redacted_text(text) or type(error).__name__


def _kill_wandb_core() -> None:
    """End this process's wandb service; what it has flushed stays on disk."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = status.read_text().partition("(")[2].rpartition(") ")
            if name == "wandb-core" and int(rest.split()[1]) == os.getpid():
                os.kill(int(status.parent.name), signal.SIGKILL)
        except (OSError, ValueError, IndexError):  # that process has just gone
            continue
