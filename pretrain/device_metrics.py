"""What a rank's device and process are asked for a report, and what a report says of all of them."""

import math

import psutil
import torch

from pretrain.ranks import Ranks
from pretrain.watching.gpus import Gpu

_GIB = 2**30
_MEMORY = ("active", "reserved", "reserved_frac", "retries", "ooms")
_GPU = ("power_w", "temp_c", "util", "throttled", "ecc_errors")


class DeviceMeter:
    """Reads one rank's device. On a CPU there is the process's memory to tell, and nothing else."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._gpu: Gpu | None = None
        if device.type == "cuda":
            self._gpu = Gpu(str(torch.cuda.get_device_properties(device).uuid))

    def read(self) -> dict[str, float]:
        """Return this rank's values since the last call, the same names on every rank; NaN if not known."""
        names: list[str] = [*_MEMORY, *_GPU]
        found = dict.fromkeys(names, math.nan)
        found["host_gib"] = self._process.memory_info().rss / _GIB
        if self._gpu is not None:
            found |= self._memory() | self._gpu.read()
        return found

    def _memory(self) -> dict[str, float]:
        stats = torch.cuda.memory_stats(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        reserved = stats["reserved_bytes.all.peak"]
        return {
            "active": stats["active_bytes.all.peak"] / _GIB,
            "reserved": reserved / _GIB,
            "reserved_frac": reserved / torch.cuda.get_device_properties(self._device).total_memory,
            "retries": stats["num_alloc_retries"],
            "ooms": stats["num_ooms"],
        }


def device_metrics(ranks: Ranks) -> dict[str, float]:
    """Return the memory and the health of all ranks' devices as metrics; none that no rank knows."""
    metrics = {"mem/host_gib": ranks.largest("host_gib")}
    if ranks.known("active"):
        metrics |= {
            "mem/peak_active_gib": ranks.largest("active"),
            "mem/peak_active_gib_mean": ranks.mean("active"),
            "mem/fullest_rank": float(ranks.rank_of_largest("active")),
            "mem/peak_reserved_gib": ranks.largest("reserved"),
            "mem/reserved_frac": ranks.largest("reserved_frac"),
            "mem/alloc_retries": ranks.largest("retries"),
            "mem/ooms": ranks.largest("ooms"),
        }
    if ranks.known("power_w"):
        metrics["gpu/power_w"] = ranks.mean("power_w")
    if ranks.known("temp_c"):
        hottest = ranks.rank_of_largest("temp_c")
        metrics |= {"gpu/temp_c": ranks.largest("temp_c"), "gpu/hottest_rank": float(hottest)}
    if ranks.known("util"):
        metrics["gpu/util"] = ranks.smallest("util")
    for name, metric in (("throttled", "gpu/throttled"), ("ecc_errors", "gpu/ecc_errors")):
        if ranks.known(name):  # how many devices; how many errors
            metrics[metric] = math.fsum(each for each in ranks[name] if not math.isnan(each))
    return metrics
