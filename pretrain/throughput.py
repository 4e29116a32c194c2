"""What a step costs and how much of the hardware it uses: FLOPs per token, peaks, MFU."""

import re

# Dense bf16 peak of one device, in FLOP/s, without sparsity (the vendors' data sheets).
_PEAK_BF16_FLOPS = {
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "V100": 125e12,  # fp16
}


def flops_per_token(*, parameters: int, layers: int, channels: int, sequence_tokens: int) -> float:
    """Return the FLOPs of one token's forward and backward: 6N + 12·L·C·T.

    PaLM (Chowdhery et al., 2022, appendix B). `parameters` counts those that take part in a
    product: GPT-2's tied embedding does (as the head), its position embedding does not. Neither
    causal sparsity nor recomputation is counted.
    """
    return 6 * parameters + 12 * layers * channels * sequence_tokens


def recomputed_flops_per_token(*, layers: int, channels: int, sequence_tokens: int) -> float:
    """Return the FLOPs of one token's second forward pass through all blocks: L·(16·C² + 4·C·T).

    Of a block's 12·C² parameters those of its last product, 4·C², are left out: the backward pass asks for
    what went into it, not for what came out. Attention is a third of what PaLM's formula counts for both
    passes; causal sparsity is not counted there either.
    """
    return layers * (16 * channels**2 + 4 * channels * sequence_tokens)


def known_peak_flops(device_name: str) -> float | None:
    """Return the dense bf16 peak of a device in FLOP/s, or None for one that is not in the table."""
    # Whole words: an RTX A1000 is no A100, and a GB200 no B200. A laptop's chip is half its namesake.
    found = [name for name in _PEAK_BF16_FLOPS if re.search(rf"\b{name}\b", device_name)]
    if "Laptop" in device_name:
        return None
    return _PEAK_BF16_FLOPS[max(found, key=len)] if found else None
