"""When a number that a step left on the device reaches the host: two steps later, so that nobody waits.

Each step's scalars are copied into pinned memory behind the step's own work, with an event after them. The
host looks at those of two steps before: by then they are there, or the host is so far ahead that it does
well to wait. Which step is looked at depends on nothing but the step, so all ranks look at the same one.
"""

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

_LAG_STEPS = 2


class Readback:
    """Scalars on their way from one device to the host, in the order of steps."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        # A CPU has computed what it returns, so there is nothing to wait for.
        self._lag = _LAG_STEPS if self._cuda else 0
        self._travelling: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def send(self, step: int, value: Tensor) -> None:
        """Begin to copy a scalar of `step`."""
        if not self._cuda:
            self._travelling.append((step, value, None))
            return
        here = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        here.copy_(value, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._travelling.append((step, here, event))

    def arrived(self) -> Iterator[tuple[int, float]]:
        """Yield, once each, (step, value) of the steps that are old enough by now."""
        while len(self._travelling) > self._lag:
            step, here, event = self._travelling.popleft()
            if event is not None:
                event.synchronize()
            yield step, float(here)
