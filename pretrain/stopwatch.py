"""How long a piece of work takes on the device, measured without waiting for it."""

import time

import torch


class Stopwatch:
    """Adds up the time between entering and leaving, as the device sees it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._started = 0.0
        self._seconds = 0.0

    def __enter__(self) -> None:
        if self._cuda:
            pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            self._pairs.append(pair)
            pair[0].record()
        else:
            self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self._cuda:
            self._pairs[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._started

    def seconds(self) -> float:
        """Return what has been added up since the last call; wait for the device if it is still at work."""
        for begin, end in self._pairs:
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
        self._pairs.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds
