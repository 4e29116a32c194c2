from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from pretrain.model import GPT, GPTConfig
from pretrain.throughput import flops_per_token, known_peak_flops, recomputed_flops_per_token


def test_the_flops_of_gpt2_124m_are_palms_formula_by_hand():
    """6N + 12·L·C·T, N without the position embedding: 741.9M for the products, 113.2M for attention."""
    in_products = 124_439_808 - 1024 * 768
    found = flops_per_token(parameters=in_products, layers=12, channels=768, sequence_tokens=1024)
    assert found == 6 * 123_653_376 + 12 * 12 * 768 * 1024
    assert found / 1e6 == pytest.approx(855, abs=0.5)


def test_attention_costs_more_the_longer_the_sequence():
    sizes = {"parameters": 100, "layers": 2, "channels": 8}
    short, long = (flops_per_token(**sizes, sequence_tokens=tokens) for tokens in (16, 32))
    assert long - short == 12 * 2 * 8 * 16


@pytest.mark.parametrize(("layers", "channels", "tokens"), [(3, 32, 48), (2, 64, 16)])
def test_what_full_recomputation_costs_is_what_torch_counts(layers: int, channels: int, tokens: int):
    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    # torch has a rule for the attentions of a GPU, and not for a CPU's.
    kernels = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    counted = {}
    for mode in ("none", "full"):
        model = GPT(GPTConfig(layers=layers, heads=2, channels=channels, context=tokens), recompute=mode)
        batch = torch.zeros(2, tokens + 1, dtype=torch.int64)
        with FlopCounterMode(display=False, custom_mapping=kernels) as flops:
            model(batch[:, :-1], batch[:, 1:]).backward()
        counted[mode] = flops.get_total_flops()
    again = recomputed_flops_per_token(layers=layers, channels=channels, sequence_tokens=tokens)
    assert counted["full"] - counted["none"] == 2 * tokens * again


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("Tesla V100-SXM2-32GB", 125),
    ],
)
def test_a_device_is_found_under_the_name_that_its_driver_gives(name: str, tflops: float):
    found = known_peak_flops(name)
    assert found is not None
    assert found / 1e12 == pytest.approx(tflops)


@pytest.mark.parametrize("name", ["NVIDIA GB300", "AMD Instinct MI300X", "cpu", "", "NVIDIA A10G"])
def test_a_device_that_the_table_does_not_know_has_no_peak(name: str):
    assert known_peak_flops(name) is None


@pytest.mark.parametrize(
    "name", ["NVIDIA GB200", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA RTX A1000 Laptop"]
)
def test_a_longer_name_of_another_device_is_not_taken_for_a_known_one(name: str):
    assert known_peak_flops(name) is None
