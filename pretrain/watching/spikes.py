"""When a loss is a spike: far above what the last reports were."""

import math
from collections import deque
from collections.abc import Iterable

# OLMo-core's StabilityMonitor: 6 standard deviations above the mean of the last 128 values.
WINDOW = 128
SPIKE_Z = 6.0
# Below this many values the spread is a guess, and the first fall of the loss would give alarms.
_FEWEST = 32
_SMALLEST_STD = 1e-10


class LossHistory:
    """The last finite losses, as a measure for the next one."""

    def __init__(self, losses: Iterable[float] = ()):
        self._recent: deque[float] = deque((x for x in losses if math.isfinite(x)), maxlen=WINDOW)

    def z_score(self, loss: float) -> float:
        """Return how many standard deviations `loss` lies above the recent mean, and remember it.

        0.0 while fewer than 32 values are known, or all were equal; NaN for a loss that is not finite,
        which is not remembered.
        """
        if not math.isfinite(loss):
            return math.nan
        score = self._score(loss)
        self._recent.append(loss)
        return score

    def _score(self, loss: float) -> float:
        if len(self._recent) < _FEWEST:
            return 0.0
        mean = math.fsum(self._recent) / len(self._recent)
        variance = math.fsum((x - mean) ** 2 for x in self._recent) / len(self._recent)
        std = math.sqrt(variance)
        return (loss - mean) / std if std > _SMALLEST_STD else 0.0
