import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("softmax_cases.py")
INSTALLED = importlib.util.find_spec("triton") or (Path(sys.prefix) / "triton").exists()


@pytest.fixture(scope="module")
def told() -> list[dict]:
    if not INSTALLED:
        pytest.skip("no Triton: make test-kernels installs it beside the rest")
    done = subprocess.run([sys.executable, CASES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_kernel_is_torchs_cross_entropy_to_1e_5_in_fp32_and_to_rounding_in_bf16(told):
    cases = [each for each in told if "dtype" in each]
    assert len(cases) == 16
    for case in cases:
        assert case["loss_error"] < 1e-5, case
        if case["dtype"] == "torch.float32":
            assert case["gradient_error"] < 1e-5, case
        else:  # 8 bits of mantissa; the interpreter cuts them off where a GPU rounds
            assert case["gradient_error_relative"] < 2**-7, case


def test_padding_comes_out_as_zeros_and_the_loss_alone_changes_no_logit(told):
    for case in (each for each in told if "dtype" in each):
        assert case["padding"] == 0, case
        assert not case["loss_alone_differs"], case


def test_a_target_outside_the_vocabulary_is_nan_and_not_a_loss(told):
    assert told[-1] == {"outside": [True, False]}
