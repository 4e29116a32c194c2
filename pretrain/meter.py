"""What a report says: the losses, times and rates since the last one, over all ranks."""

import math
import time
from dataclasses import dataclass

import torch

from pretrain.checkpoint import Progress
from pretrain.device_metrics import DeviceMeter, device_metrics
from pretrain.distributed import World
from pretrain.engine import StepResult
from pretrain.ranks import Ranks
from pretrain.stream.data import Batch


@dataclass(frozen=True)
class Scale:
    """The sizes that turn seconds into rates."""

    parameters: int
    flops_per_token: float
    peak_flops: float  # of one device
    recomputed_flops_per_token: float = 0.0  # that the backward pass computes a second time
    clip_norm: float = 0.0  # 0 does not clip


class Meter:
    """Collects steps without waiting for the device; reads it only when asked for a report."""

    def __init__(self, scale: Scale, world: World, *, skipped_steps: int = 0) -> None:
        """Take how many of the run's steps so far have been skipped."""
        self.scale = scale
        self.skipped_steps = skipped_steps  # as of the last report
        self._world = world
        self._device = DeviceMeter(world.device)
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._step_seconds: list[float] = []  # as the host sees them, which waits for the device
        self._learning_rate = 0.0
        self._epoch = 0
        self._sequences = self._masked = 0  # of this rank; of them, those that do not count
        self._skipped: list[torch.Tensor] = []
        self._waited = 0.0
        self._elapsed = 0.0
        self._tokens = 0  # since the last report
        self._tokens_of_attempt = 0
        self._began: float | None = None
        self._resumed = self._stepped = time.perf_counter()
        # Of every rank, per step: waiting for data and forward passes, which no other rank prolongs.
        self.own_step_seconds: list[float] = []

    def add(self, result: StepResult, batch: Batch, learning_rate: float, *, tokens: int) -> None:
        """Take in one step, of so many tokens over all ranks."""
        self._losses.append(result.loss)
        self._norms.append(result.gradient_norm)
        self._learning_rate = learning_rate
        self._skipped.append(result.skipped)
        self._waited += batch.wait_seconds
        self._epoch = max(self._epoch, batch.epoch)
        self._sequences += sum(len(tokens) for tokens in batch.micro_batches)
        self._masked += len(batch.skips)
        self._tokens += tokens
        self._tokens_of_attempt += tokens
        now = time.perf_counter()
        self._step_seconds.append(now - self._stepped)
        self._stepped = now

    def pause(self) -> float:
        """Stop the clock, as for a validation or a save; return the seconds of steps since it ran.

        Waits for the device, which may be two steps behind: what follows reads from it anyhow.
        """
        if self._world.device.type == "cuda":
            torch.cuda.current_stream(self._world.device).synchronize()
        seconds = time.perf_counter() - self._resumed
        self._elapsed += seconds
        return seconds

    def resume(self) -> None:
        """Let the clock go on."""
        self._resumed = self._stepped = time.perf_counter()
        if self._began is None:
            self._began = self._resumed

    def since_report(self) -> tuple[float, int]:
        """Return the seconds of steps since the last report, as the host sees them, and how many there were.

        The clock must be running.
        """
        return self._elapsed + time.perf_counter() - self._resumed, len(self._losses)

    def report(
        self, progress: Progress, *, tokens_to_go: int, forward_seconds: float = 0.0
    ) -> dict[str, float]:
        """Return the metrics of the steps since the last report, the same on every rank; begin anew.

        `forward_seconds` are those of this rank since the last report. Collective. The clock must be
        paused.
        """
        assert self._losses, "a report needs a step"
        ranks = Ranks.gathered(self._world, self._own(forward_seconds))
        metrics = self._quality(ranks) | self._speed(ranks) | device_metrics(ranks)
        metrics |= {
            "time/eta_h": tokens_to_go / metrics["perf/tokens_per_s"] / 3600,
            "time/goodput": progress.productive_seconds / max(1e-9, time.time() - progress.began_at),
            "data/epoch": float(self._epoch),
            "data/masked_frac": ranks.mean("masked"),
            "progress/chinchilla": progress.tokens / (20 * self.scale.parameters),
            "total/pflops": self.scale.flops_per_token * progress.tokens / 1e15,
        }
        self._losses, self._norms, self._skipped, self._step_seconds = [], [], [], []
        self._elapsed, self._waited = 0.0, 0.0
        self._tokens = self._sequences = self._masked = 0
        return metrics

    def _own(self, forward_seconds: float) -> dict[str, float]:
        """Return what this rank measured since the last report; waits for the device."""
        steps = len(self._losses)
        began = self._resumed if self._began is None else self._began
        return {
            "loss": float(torch.stack(self._losses).sum()) / steps,
            "elapsed": self._elapsed,
            "waited": self._waited,
            "masked": self._masked / max(1, self._sequences),
            "step": (forward_seconds + self._waited) / steps,
            "p50": _quantile(self._step_seconds, 0.5),
            "p95": _quantile(self._step_seconds, 0.95),
            "since_beginning": time.perf_counter() - began,
            **self._device.read(),
        }

    def _quality(self, ranks: Ranks) -> dict[str, float]:
        norms: list[float] = torch.stack(self._norms).tolist()  # in one transfer
        self.skipped_steps += int(torch.stack(self._skipped).sum())
        finite = [norm for norm in norms if math.isfinite(norm)]
        limit = self.scale.clip_norm or math.inf
        loss = math.fsum(ranks["loss"]) / self._world.size
        return {
            "train/loss": loss,
            "train/ppl": perplexity(loss),
            "train/loss_max": max(ranks["loss"], key=lambda loss: math.inf if math.isnan(loss) else loss),
            "optim/lr": self._learning_rate,
            "optim/grad_norm": norms[-1],
            "optim/grad_norm_max": max(finite, default=math.nan),
            "optim/clipped_frac": sum(norm > limit for norm in finite) / len(norms),
            "optim/skipped_steps": float(self.skipped_steps),
        }

    def _speed(self, ranks: Ranks) -> dict[str, float]:
        scale, size, steps = self.scale, self._world.size, len(self._losses)
        elapsed, waited = ranks.largest("elapsed"), ranks.largest("waited")
        tokens_per_s = self._tokens / elapsed
        self.own_step_seconds = ranks["step"]
        per_flop = tokens_per_s / (scale.peak_flops * size)
        hardware = {}
        if scale.recomputed_flops_per_token:
            hardware["perf/hfu"] = (scale.flops_per_token + scale.recomputed_flops_per_token) * per_flop
        return {
            "perf/tokens_per_s": tokens_per_s,
            "perf/tokens_per_s_per_gpu": tokens_per_s / size,
            "perf/tokens_per_s_avg": self._tokens_of_attempt / max(1e-9, ranks.largest("since_beginning")),
            "perf/mfu": scale.flops_per_token * per_flop,
            **hardware,
            "perf/step_s": elapsed / steps,
            "perf/step_s_p50": ranks.largest("p50"),
            "perf/step_s_p95": ranks.largest("p95"),
            "perf/step_s_max": ranks.largest("step"),
            "perf/step_s_mean": ranks.mean("step"),
            "perf/slowest_rank": float(ranks.rank_of_largest("step")),
            "perf/data_wait_s": waited / steps,
            "perf/data_wait_s_mean": ranks.mean("waited") / steps,
            "perf/data_wait_rank": float(ranks.rank_of_largest("waited")),
            "perf/data_wait_frac": waited / elapsed,
        }


def perplexity(loss: float) -> float:
    """Return e to the power of a loss in nats; above e**700 that, as more says nothing and fits no double."""
    return math.exp(min(loss, 700.0))


def _quantile(values: list[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
