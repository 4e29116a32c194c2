import pytest
import torch

from pretrain.peak import peak_flops

CPU = torch.device("cpu")


def test_what_is_configured_counts():
    assert peak_flops(CPU, precision="fp32", configured_tflops=0.5) == 0.5e12


def test_a_cpu_is_measured_and_is_no_gpu():
    """Between a slow core under load and a server with many of them."""
    assert 1e8 < peak_flops(CPU, precision="fp32", configured_tflops=None) < 1e14


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("autocast", torch.bfloat16)])
def test_it_is_measured_in_the_precision_of_the_run(
    monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
):
    import pretrain.peak

    seen: list[torch.dtype] = []

    def seconds(matrix: torch.Tensor) -> float:
        seen.append(matrix.dtype)
        return float(len(seen))

    monkeypatch.setattr(pretrain.peak, "_seconds", seconds)
    assert peak_flops(CPU, precision=precision, configured_tflops=None) == 2 * 1024**3, "the best of them"
    assert set(seen) == {dtype}


def test_a_gpu_of_the_table_is_not_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    assert peak_flops(torch.device("cuda", 0), precision="autocast", configured_tflops=None) == 312e12
