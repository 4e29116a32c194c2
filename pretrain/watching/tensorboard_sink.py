"""How TensorBoard sees a run: event files in `<run_dir>/tensorboard`, written by a thread of tensorboardX."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

DIRECTORY = "tensorboard"
_FLUSH_SECONDS = 10
# The writer's queue blocks when it is full; 1,000 reports of 60 metrics need a disk that hangs for long.
_LONGEST_QUEUE = 100_000
_NOT_METRICS = {"step"}


class TensorboardSink:
    """Writes rows as scalars, alerts and samples as texts. No method raises; the first failure ends it."""

    def __init__(self, run_dir: Path, *, attempt: int, say: Callable[[str], None]):
        self._directory = run_dir / DIRECTORY
        self._attempt = attempt
        self._say = say
        self._writer: Any = None
        self._off = False
        self._step = 0

    def log(self, row: dict[str, Any]) -> None:
        """Write the row's metrics at its step."""
        self._step = int(row["step"])
        for name, value in row.items():
            if name not in _NOT_METRICS:
                self._do(lambda writer, name=name, value=value: writer.add_scalar(name, value, self._step))

    def alert(self, title: str, text: str, level: str) -> None:
        """Write the alert as a text."""
        self._do(lambda writer: writer.add_text("alerts", f"{level}: {title}: {text}", self._step))

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Write a sample as a text; pass over all else."""
        if kind == "sample":
            text = f"**{fields.get('prompt', '')}**{fields.get('text', '')}"
            self._do(lambda writer: writer.add_text("samples", text, int(fields.get("step", self._step))))

    def end(self, exit_code: int) -> None:
        """Pass over the exit code, which TensorBoard does not show."""

    def wait(self, seconds: float) -> None:
        """Write what is left and close the file."""
        if self._writer is not None:
            self._do(lambda writer: writer.close())
        self._off = True

    def _do(self, action: Callable[[Any], None]) -> None:
        if self._off:
            return
        try:
            if self._writer is None:
                self._writer = self._opened()
            action(self._writer)
        except ImportError:
            self._off = True
            self._say("TensorBoard is off: pip install 'gpt2-pretrain[tensorboard]'")
        except Exception as error:  # whatever it is, it must not reach training
            self._off = True
            self._say(f"TensorBoard is off from here on ({error}); metrics.jsonl has everything")

    def _opened(self) -> Any:
        """Return a writer; of a later attempt one that hides what an earlier one wrote from this step on."""
        purge = self._step if self._attempt else None
        return import_module("tensorboardX").SummaryWriter(
            str(self._directory),
            purge_step=purge,
            flush_secs=_FLUSH_SECONDS,
            max_queue=_LONGEST_QUEUE,
            filename_suffix=f".{self._attempt:04d}",  # its own names tell only seconds apart
        )
