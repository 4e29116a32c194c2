"""Which kernel computes attention on a device: the fastest for GPT-2's training shapes, by measurements.

On Hopper cuDNN's beats FlashAttention-2 by 1.7 to 2.3 times at head size 64 and is within 6 % of
FlashAttention-3 (huggingface/transformers PR 48163, sgl-project/sglang PR 30090); on Ampere it is the
slower (0.82). Torch itself puts FlashAttention-2 first everywhere, and its list of priorities is not kept
under torch.compile (pytorch 147768, 149725), so the others are switched off instead.
"""

import importlib.util

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor
from torch.nn.attention import activate_flash_attention_impl

_HOPPER = 9  # CUDA's major compute capability
# On a CPU with bf16 products, B = 12, H = 4, C / H = 32: 64 tokens took 5.4 ms in bf16 and 1.8 in fp32, 128
# took 8.6 and 3.6; with C / H = 64, 256 tokens took the same, and 1024 took 65 and 93.
_FEW_TOKENS = 256
_FLASH_3 = "flash_attn_interface"  # the package of FlashAttention-3


def attention_kernel(capability: tuple[int, int] | None, *, flash_3_installed: bool) -> str:
    """Return "cudnn", "flash_3" or "flash_2" for a GPU of this compute capability; "torch" without one."""
    if capability is None:
        return "torch"
    if capability[0] == _HOPPER and flash_3_installed:
        return "flash_3"
    return "cudnn" if capability[0] >= _HOPPER else "flash_2"


def choose_attention(device: torch.device) -> str:
    """Let this process compute attention with the best kernel that it has; return which.

    Shapes that it does not take fall back on torch's memory-efficient kernel, then on plain products.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    installed = importlib.util.find_spec(_FLASH_3) is not None
    kernel = attention_kernel(capability, flash_3_installed=installed)
    if kernel == "flash_3":
        activate_flash_attention_impl("FA3")
    if kernel != "torch":
        torch.backends.cuda.enable_cudnn_sdp(kernel == "cudnn")
        torch.backends.cuda.enable_flash_sdp(kernel != "cudnn")
    return kernel


def causal_attention(query: Tensor, key: Tensor, value: Tensor, *, dropout: float) -> Tensor:
    """Return (B, H, T, C / H) from three of that shape: each position sees itself and those before."""
    if query.device.type == "cpu" and query.shape[2] <= _FEW_TOKENS:
        with torch.autocast("cpu", enabled=False):
            exact = (query.float(), key.float(), value.float())
            y = F.scaled_dot_product_attention(*exact, dropout_p=dropout, is_causal=True)
            return y.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
