"""Which kernel computes attention on a device: the fastest for GPT-2's training shapes, by measurements.

On Hopper cuDNN's beats FlashAttention-2 by 1.7 to 2.3 times at head size 64 and is within 6 % of
FlashAttention-3 (huggingface/transformers PR 48163, sgl-project/sglang PR 30090); on Ampere it is the
slower (0.82). Torch itself puts FlashAttention-2 first everywhere, and its list of priorities is not kept
under torch.compile (pytorch 147768, 149725), so the others are switched off instead.
"""

import importlib.util

import torch
from torch.nn.attention import activate_flash_attention_impl

_HOPPER = 9  # CUDA's major compute capability
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
