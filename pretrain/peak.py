"""How fast a device could be at best: from the table, or measured where the table does not know it."""

import time

import torch

from pretrain.throughput import known_peak_flops

_SIZE = 1024  # of the square matrices: 2 × 1024³ FLOP, some 20 ms on one CPU core
_REPEATS = 5


def peak_flops(device: torch.device, *, precision: str, configured_tflops: float | None) -> float:
    """Return the FLOP/s against which utilisation is stated, for one device.

    As configured; else the vendor's dense bf16 peak; else, as on a CPU, the best of a few products
    of 1024 × 1024 matrices in the precision of the run.
    """
    if configured_tflops is not None:
        return configured_tflops * 1e12
    if known := known_peak_flops(device_name(device)):
        return known
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    matrix = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    return 2 * _SIZE**3 / min(_seconds(matrix) for _ in range(_REPEATS))


def device_name(device: torch.device) -> str:
    """Return the kind of a device as its vendor calls it; of every CPU "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _seconds(matrix: torch.Tensor) -> float:
    started = time.perf_counter()
    (matrix @ matrix)[0, 0].item()  # item() waits for the device
    return time.perf_counter() - started
