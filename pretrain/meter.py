"""What a report says: the losses, times and rates since the last one, over all ranks."""

import time
from dataclasses import dataclass

import torch

from pretrain.checkpoint import Progress
from pretrain.distributed import World, largest, summed
from pretrain.engine import StepResult
from pretrain.stream.data import Batch

_GIB = 2**30


@dataclass(frozen=True)
class Scale:
    """The sizes that turn seconds into rates."""

    tokens_per_step: int
    total_steps: int
    parameters: int
    flops_per_token: float
    peak_flops: float  # of one device


class Meter:
    """Collects steps without waiting for the device; reads it only when asked for a report."""

    def __init__(self, scale: Scale, world: World) -> None:
        self.scale = scale
        self._world = world
        self._losses: list[torch.Tensor] = []
        self._last: StepResult | None = None
        self._learning_rate = 0.0
        self._epoch = 0
        self._skipped = 0
        self._waited = 0.0
        self._elapsed = 0.0
        self._resumed = time.perf_counter()
        # Of every rank, per step: waiting for data and forward passes, which no other rank prolongs.
        self.own_step_seconds: list[float] = []

    def add(self, result: StepResult, batch: Batch, learning_rate: float) -> None:
        """Take in one step."""
        self._losses.append(result.loss)
        self._last = result
        self._learning_rate = learning_rate
        self._skipped += result.skipped
        self._waited += batch.wait_seconds
        self._epoch = max(self._epoch, batch.epoch)

    def pause(self) -> float:
        """Stop the clock, as for a validation or a save; return the seconds of steps since it ran."""
        seconds = time.perf_counter() - self._resumed
        self._elapsed += seconds
        return seconds

    def resume(self) -> None:
        """Let the clock go on."""
        self._resumed = time.perf_counter()

    def report(self, progress: Progress, forward_seconds: float = 0.0) -> dict[str, float]:
        """Return the metrics of the steps since the last report, the same on every rank; begin anew.

        `forward_seconds` are those of this rank since the last report. Collective. The clock must be
        paused.
        """
        assert self._last is not None, "a report needs a step"
        steps = len(self._losses)
        loss_sum = float(torch.stack(self._losses).sum())
        loss = summed(self._world, loss_sum)[0] / (steps * self._world.size)
        elapsed, waited, memory = largest(self._world, self._elapsed, self._waited, self._peak_memory())
        own = [0.0] * self._world.size
        own[self._world.rank] = (forward_seconds + self._waited) / steps
        self.own_step_seconds = summed(self._world, *own)
        slowest = max(range(self._world.size), key=self.own_step_seconds.__getitem__)
        scale, tokens_per_s = self.scale, self.scale.tokens_per_step * steps / elapsed
        metrics = {
            "train/loss": loss,
            "optim/lr": self._learning_rate,
            "optim/grad_norm": float(self._last.gradient_norm),
            "optim/skipped_steps": float(self._skipped),
            "perf/tokens_per_s": tokens_per_s,
            "perf/tokens_per_s_per_gpu": tokens_per_s / self._world.size,
            "perf/mfu": scale.flops_per_token * tokens_per_s / (scale.peak_flops * self._world.size),
            "perf/step_s": elapsed / steps,
            "perf/step_s_max": self.own_step_seconds[slowest],
            "perf/slowest_rank": float(slowest),
            "perf/data_wait_s": waited / steps,
            "perf/data_wait_frac": waited / elapsed,
            "time/eta_h": (scale.total_steps - progress.step) * elapsed / steps / 3600,
            "time/goodput": progress.productive_seconds / max(1e-9, time.time() - progress.began_at),
            "data/epoch": float(self._epoch),
            "progress/chinchilla": progress.tokens / (20 * scale.parameters),
        }
        if memory:
            metrics["mem/peak_active_gib"] = memory
        self._losses, self._elapsed, self._waited = [], 0.0, 0.0
        return metrics

    def _peak_memory(self) -> float:
        """Return the GiB of device memory that tensors took at most since the last report."""
        if self._world.device.type != "cuda":
            return 0.0
        peak = torch.cuda.max_memory_allocated(self._world.device) / _GIB
        torch.cuda.reset_peak_memory_stats(self._world.device)
        return peak
