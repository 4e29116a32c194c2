"""Where a run's numbers go: always into metrics.jsonl, and on to whoever else shall hear of them."""

import sys
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.watching.alerts import AlertChannel
from pretrain.watching.metrics_log import MetricsLog, last_values
from pretrain.watching.redaction import redacted
from pretrain.watching.spikes import WINDOW
from pretrain.watching.tensorboard_sink import TensorboardSink
from pretrain.watching.tracker import Mirror, Tracker
from pretrain.watching.wandb_sink import WandbConfig, WandbThread
from pretrain.watching.watch import MOST_SPEEDS, Watch

__all__ = ["Tracker", "TrackingConfig", "open_tracker"]


@dataclass(frozen=True)
class TrackingConfig(WandbConfig):
    """Who hears of a run besides its own record: Weights & Biases, TensorBoard."""

    tensorboard: bool = False  # event files in <run_dir>/tensorboard


def _print_line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def open_tracker(
    config: TrackingConfig,
    run_dir: Path,
    *,
    settings: dict[str, Any],
    attempt: int,
    primary: bool,
    alike: Container[int] = (),
    say: Callable[[str], None] = _print_line,
) -> Tracker:
    """Return the tracker of this process: a working one on the primary rank, a silent one elsewhere.

    `settings` is the frozen config with the facts of the run; it is stored without its secrets. `alike`
    are the earlier attempts whose speed this one's compares with. `say` receives the few lines meant for
    a person, perhaps from another thread. Returns at once: W&B starts in the background.
    """
    if not primary:
        return Tracker(None, (), say=say)
    public = redacted(settings)
    watch = Watch()
    if attempt:
        losses = last_values(run_dir, "train/loss", WINDOW)
        watch = Watch(losses, last_values(run_dir, "perf/tokens_per_s", MOST_SPEEDS, of_attempts=alike))
    record = MetricsLog(run_dir, attempt=attempt, say=say)
    record.write({"event": "started", "settings": public})
    mirrors: list[Mirror] = [AlertChannel(run_dir, attempt=attempt, say=say)]
    if config.wandb != "disabled":
        wandb = WandbThread(config, run_dir, settings=public, attempt=attempt, say=say)
        wandb.start()
        mirrors.append(wandb)
    if config.tensorboard:
        mirrors.append(TensorboardSink(run_dir, attempt=attempt, say=say))
    seconds = config.finish_timeout_seconds
    return Tracker(record, mirrors, say=say, watch=watch, finish_timeout_seconds=seconds)
