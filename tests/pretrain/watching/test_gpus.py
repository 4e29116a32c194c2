"""What NVML says of a device reaches the report; what it does not say costs nothing.

Numbers as NVML 13 gave them for an H100 SXM under load; only the vendor's library is replaced.
"""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pretrain.watching.gpus import Gpu

UUID = "8f9c1c9e-3f0e-6b6e-1f52-2d6a3a1e5a11"
POWER_CAP, HW_THERMAL, IDLE = 0x4, 0x40, 0x1


class NotSupportedError(Exception):
    """As pynvml raises it for what a device does not tell."""


def recorded(**changed: Any) -> SimpleNamespace:
    """Return a pynvml that has one H100; `changed` replaces single answers."""

    def handle(name: str) -> str:
        if name != f"GPU-{UUID}":
            raise NotSupportedError("Invalid Argument")
        return "the handle"

    answers = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetPowerUsage": lambda _: 689_421,
        "nvmlDeviceGetTemperature": lambda _, sensor: {0: 61}[sensor],
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=99, memory=47),
        "nvmlDeviceGetCurrentClocksEventReasons": lambda _: POWER_CAP,
        "nvmlDeviceGetTotalEccErrors": lambda _, kind, counter: {(1, 0): 2}[kind, counter],
    }
    constants = {
        "NVML_TEMPERATURE_GPU": 0,
        "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
        "NVML_VOLATILE_ECC": 0,
        "nvmlClocksEventReasonHwSlowdown": 0x8,
        "nvmlClocksEventReasonSwThermalSlowdown": 0x20,
        "nvmlClocksEventReasonHwThermalSlowdown": HW_THERMAL,
        "nvmlClocksEventReasonHwPowerBrakeSlowdown": 0x80,
    }
    return SimpleNamespace(**{**answers, **constants, **changed})


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda **changed: monkeypatch.setitem(sys.modules, "pynvml", recorded(**changed))


def test_a_device_tells_its_power_heat_use_and_errors(nvml: Any):
    nvml()
    expected = {"power_w": 689.421, "temp_c": 61.0, "util": 0.99, "throttled": 0.0, "ecc_errors": 2.0}
    assert Gpu(UUID).read() == expected
    assert Gpu(f"GPU-{UUID}").read() == expected


@pytest.mark.parametrize(
    ("reasons", "throttled"), [(IDLE, 0.0), (POWER_CAP, 0.0), (POWER_CAP | HW_THERMAL, 1.0)]
)
def test_a_power_cap_is_no_throttling_but_heat_is(reasons: int, throttled: float, nvml: Any):
    nvml(nvmlDeviceGetCurrentClocksEventReasons=lambda _: reasons)
    assert Gpu(UUID).read()["throttled"] == throttled


def test_what_a_device_does_not_tell_is_left_out(nvml: Any):
    def not_told(*_: Any) -> None:
        raise NotSupportedError("Not Supported")

    nvml(nvmlDeviceGetTotalEccErrors=not_told, nvmlDeviceGetPowerUsage=not_told)
    assert set(Gpu(UUID).read()) == {"temp_c", "util", "throttled"}


def test_without_nvml_or_without_the_device_nothing_is_told(nvml: Any, monkeypatch: pytest.MonkeyPatch):
    nvml()
    assert Gpu("another").read() == {}
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpu(UUID).read() == {}


def test_the_names_are_those_of_the_real_library():
    pynvml = pytest.importorskip("pynvml")
    ours = recorded()
    assert [name for name in vars(ours) if not hasattr(pynvml, name)] == []
    constants = [name for name in vars(ours) if not callable(getattr(ours, name))]
    assert [(name, getattr(pynvml, name)) for name in constants] == [
        (name, getattr(ours, name)) for name in constants
    ]
