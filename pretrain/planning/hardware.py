"""What a device, its links and its hour are assumed to give; every figure beside where it comes from.

"Model" in a comment means an estimate that the tests hold against published throughputs.
"""

from dataclasses import dataclass

from conf.exits import ConfigError
from pretrain.throughput import known_peak_flops


@dataclass(frozen=True)
class Hardware:
    """One device, and how it reaches the others."""

    name: str
    memory_gib: float
    peak_flops: float  # dense bf16, the vendor's data sheet
    product_flops: float  # a large bf16 product, measured or as a share of the peak
    memory_bytes_per_s: float  # a large copy
    attention_flops: tuple[float, float]  # fused causal attention, forward and backward
    node_bytes_per_s: float  # bus bandwidth of a reduction inside a node
    network_bytes_per_s: float  # the same over a few nodes
    usd_per_hour: float | None = None
    is_gpu: bool = True


def _gpu(
    name: str,
    *,
    memory_gib: float,
    product: float,
    copy: float,
    attention: tuple[float, float],
    links: tuple[float, float],
    usd: float | None = None,
) -> Hardware:
    peak = known_peak_flops(name.partition("-")[0])
    assert peak is not None, name
    return Hardware(name, memory_gib, peak, product, copy, attention, *links, usd)


# Prices are what llm.c paid: 14 $/h for 8 × A100, 28 $/h for 8 × H100 (scripts/run_gpt2_124M.sh line 5,
# run_gpt2_1558M.sh line 5). Bus bandwidths: NVLink 4 with NVLS 360 GB/s and 8 × 400 Gb/s InfiniBand 330 GB/s
# (nccl-tests' usual figures); NVLink 3 230 GB/s and 8 × 200 Gb/s 170 GB/s. Attention: FlashAttention-3's
# paper (2024), head size 64, causal, forward: cuDNN 288 TFLOPS on an H100; FlashAttention-2's for the A100.
_KNOWN = (
    # 788 TFLOPS for 8192³ and 4.3 TB/s for a copy, measured on an H200.
    _gpu(
        "H200",
        memory_gib=139,
        product=788e12,
        copy=4.3e12,
        attention=(285e12, 250e12),
        links=(360e9, 330e9),
    ),
    # 0.94 of an H200's product, and 3.35 TB/s by data sheet. Model.
    _gpu(
        "H100",
        memory_gib=79,
        product=740e12,
        copy=3.0e12,
        attention=(270e12, 235e12),
        links=(360e9, 330e9),
        usd=3.5,
    ),
    # 0.85 of the peak, and 2.04 TB/s by data sheet. Model.
    _gpu(
        "A100",
        memory_gib=79,
        product=265e12,
        copy=1.8e12,
        attention=(150e12, 120e12),
        links=(230e9, 170e9),
        usd=1.75,
    ),
    _gpu(
        "A100-40",
        memory_gib=39,
        product=265e12,
        copy=1.4e12,
        attention=(150e12, 120e12),
        links=(230e9, 170e9),
    ),
    # One core with AVX-512, fp32: 60 GFLOPS for 1024³; 16 GiB, a laptop's; ranks talk through gloo. Model.
    Hardware("CPU", 16, 60e9, 45e9, 8e9, (15e9, 15e9), 1e9, 0.5e9, None, is_gpu=False),
)


def hardware(name: str) -> Hardware:
    """Return the device called `name`. Raises ConfigError, naming those that are known."""
    for each in _KNOWN:
        if each.name == name:
            return each
    raise ConfigError(f"hardware {name!r} is not one of: {', '.join(each.name for each in _KNOWN)}")


def bus_bytes_per_s(device: Hardware, ranks: int, ranks_per_node: int) -> float:
    """Return the bus bandwidth of an all-reduce over `ranks`.

    Over the network it falls by a twentieth with every doubling from 64 ranks on: 330 → 280 GB/s from
    64 to 512 H100s. Model.
    """
    if ranks <= ranks_per_node:
        return device.node_bytes_per_s
    doublings = max(0.0, ranks.bit_length() - 1 - 6)
    return device.network_bytes_per_s * 0.95**doublings


def latency_seconds(ranks: int, ranks_per_node: int) -> float:
    """Return what a collective takes at least: in a node 0.05 ms, among 64 0.4, among 512 1.5. Model."""
    return 5e-5 if ranks <= ranks_per_node else 4e-4 * (ranks / 64) ** 0.64
