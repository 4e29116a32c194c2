"""Which reports of a run deserve an alert."""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pretrain.watching.spikes import SPIKE_Z, WINDOW, LossHistory

# One slow report is an evaluation or a neighbour; three in a row are a trend.
_IN_A_ROW = 3
_FEWEST_SPEEDS, MOST_SPEEDS = 10, 1000  # whose median is the run's usual one
_SLOW = 0.7  # of the run's median speed
_WAITING = 0.1  # of the step's time, waiting for data
_FEWEST_CHECKPOINTS = 2.0  # that must still find room on the disk: the one being written, and the next


@dataclass(frozen=True)
class Alert:
    """A message to a person. Levels: INFO, WARN, ERROR."""

    title: str
    text: str
    level: str = "WARN"


class Watch:
    """Looks at every report; speaks when something turns bad, and not again until it was well."""

    def __init__(self, losses: Iterable[float] = (), speeds: Iterable[float] = ()):
        """Take what earlier attempts have reported, the speeds of those on the same hardware."""
        self._losses = LossHistory(losses)
        self._spikes: deque[bool] = deque(maxlen=WINDOW)
        self._speeds = deque(speeds, maxlen=MOST_SPEEDS)
        self._episodes: dict[str, _Episode] = {}

    def look(self, step: int, metrics: Mapping[str, float]) -> tuple[dict[str, float], list[Alert]]:
        """Return the metrics that only looking back can give, and the alerts that are due."""
        added: dict[str, float] = {}
        found: list[Alert | None] = []
        if "train/loss" in metrics:
            loss = float(metrics["train/loss"])
            added["health/loss_z"] = self._losses.z_score(loss)
            found.append(self._loss(step, loss, added["health/loss_z"]))
            self._spikes.append(added["health/loss_z"] > SPIKE_Z)
            added["health/spike_score"] = sum(self._spikes) / len(self._spikes)
        if "perf/tokens_per_s" in metrics:
            found.append(self._speed(step, float(metrics["perf/tokens_per_s"])))
        if "perf/data_wait_frac" in metrics:
            found.append(self._data(step, float(metrics["perf/data_wait_frac"])))
        if "disk/room_checkpoints" in metrics:
            found.append(self._room(step, metrics))
        return added, [alert for alert in found if alert]

    def _loss(self, step: int, loss: float, z_score: float) -> Alert | None:
        finite = math.isfinite(loss)
        if self._turned("not finite", not finite, after=1):
            return Alert("non-finite loss", f"train/loss={loss} at step {step}", "ERROR")
        # What is not finite is no end of a spike.
        if finite and self._turned("spike", z_score > SPIKE_Z, after=1):
            return Alert("loss spike", f"train/loss={loss:.4f} at step {step}, z={z_score:.1f}")
        return None

    def _speed(self, step: int, speed: float) -> Alert | None:
        usual = statistics.median(self._speeds) if len(self._speeds) >= _FEWEST_SPEEDS else 0.0
        self._speeds.append(speed)
        if not self._turned("speed", speed < _SLOW * usual, after=_IN_A_ROW):
            return None
        return Alert("slow", f"{speed:,.0f} tokens/s at step {step}, {speed / usual:.0%} of the run's median")

    def _data(self, step: int, share: float) -> Alert | None:
        if not self._turned("data", share > _WAITING, after=_IN_A_ROW):
            return None
        return Alert("waiting for data", f"{share:.0%} of the time at step {step}; the data is too slow")

    def _room(self, step: int, metrics: Mapping[str, float]) -> Alert | None:
        checkpoints = float(metrics["disk/room_checkpoints"])
        if not self._turned("room", checkpoints < _FEWEST_CHECKPOINTS, after=1):
            return None
        free = float(metrics.get("disk/free_gib", math.nan))
        text = f"{free:.1f} GiB are left at step {step}, room for {checkpoints:.1f} checkpoints"
        return Alert("low disk", f"{text}; free some, or lower checkpoint.keep_last", "ERROR")

    def _turned(self, what: str, bad: bool, *, after: int) -> bool:
        """Return whether this report is the first to be told: the last of `after` bad ones in a row.

        What has been told is over, and may be told again, after as many good ones in a row.
        """
        episode = self._episodes.setdefault(what, _Episode())
        if bad:
            episode.bad, episode.good = episode.bad + 1, 0
        else:
            episode.good += 1
            if episode.bad < after or episode.good >= after:
                episode.bad = 0
        return bad and episode.bad == after


@dataclass
class _Episode:
    """How many bad reports there have been, and how many good ones since the last of them."""

    bad: int = 0
    good: int = 0
