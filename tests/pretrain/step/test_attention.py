import pytest
import torch

from pretrain.step.attention import attention_kernel, choose_attention


@pytest.mark.parametrize(
    ("capability", "flash_3", "kernel"),
    [
        (None, True, "torch"),
        ((8, 0), False, "flash_2"),  # A100
        ((8, 9), True, "flash_2"),  # L40S: FlashAttention-3 is for Hopper alone
        ((9, 0), False, "cudnn"),  # H100, H200
        ((9, 0), True, "flash_3"),
        ((10, 0), False, "cudnn"),  # B200
    ],
)
def test_each_generation_of_gpus_gets_its_fastest_kernel(capability, flash_3, kernel):
    assert attention_kernel(capability, flash_3_installed=flash_3) == kernel


def test_a_cpu_keeps_torchs_own_choice():
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    assert choose_attention(torch.device("cpu")) == "torch"
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled()) == before
