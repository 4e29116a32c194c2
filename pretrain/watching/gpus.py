"""How a rank's GPU is, beyond its memory: the only file that knows NVML.

NVML speaks of the machine, not of CUDA_VISIBLE_DEVICES, so the device is found by its UUID. What a
device or a driver does not tell is left out; without nvidia-ml-py nothing is told.
"""

import contextlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

# The clocks are lowered to protect the device. A power cap alone is how an H100 runs every day.
_PROTECTING = (
    "nvmlClocksEventReasonHwSlowdown",
    "nvmlClocksEventReasonHwThermalSlowdown",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown",
    "nvmlClocksEventReasonSwThermalSlowdown",
)


class Gpu:
    """One device, by its UUID as torch.cuda.get_device_properties gives it, with or without "GPU-"."""

    def __init__(self, uuid: str):
        self._nvml: Any = None
        self._handle: Any = None
        with contextlib.suppress(Exception):  # no package, no driver, no such device: all the same to us
            nvml = import_module("pynvml")
            nvml.nvmlInit()
            name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            self._handle = nvml.nvmlDeviceGetHandleByUUID(name)
            self._nvml = nvml

    def read(self) -> dict[str, float]:
        """Return power_w, temp_c, util (0 to 1), throttled (0 or 1) and ecc_errors, if they are told."""
        if self._nvml is None:
            return {}
        nvml, handle = self._nvml, self._handle
        told: dict[str, Callable[[], float]] = {
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            "temp_c": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "util": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            "throttled": self._throttled,
            "ecc_errors": lambda: nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            ),
        }
        found: dict[str, float] = {}
        for name, value in told.items():
            with contextlib.suppress(
                Exception
            ):  # NVMLError_NotSupported, or the device has fallen off the bus
                found[name] = float(value())
        return found

    def _throttled(self) -> float:
        reasons = self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._handle)
        return float(any(reasons & getattr(self._nvml, name) for name in _PROTECTING))
