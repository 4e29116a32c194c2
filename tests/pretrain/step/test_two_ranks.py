"""What an optimizer step costs besides its products: counted, so that it cannot grow unnoticed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.step.traffic import traffic

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("two_ranks.py")
BYTES = {"fp32": (4, 4), "bf16": (2, 2)}  # of a gradient and of a weight on the wire


@pytest.fixture(scope="module")
def told() -> list[dict]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    ranks = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        environment = {**os.environ, **place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks.append(subprocess.Popen([sys.executable, PROGRAM], env=environment, stdout=subprocess.PIPE))
    said = [each.communicate(timeout=280)[0].decode() for each in ranks]
    assert [each.returncode for each in ranks] == [0, 0]
    return [json.loads(line) for text in said for line in text.splitlines() if line.startswith("{")]


def test_a_step_at_zero_1_makes_no_more_than_20_calls_and_never_waits(told):
    found = [each for each in told if each.get("stage") == 1]
    assert len(found) == 3 * 2, "three precisions on two ranks"
    for each in found:
        assert each["calls"] <= 20, each
        assert each["waits"] == 0, each


def test_stages_0_and_2_do_not_wait_either(told):
    found = [each for each in told if each.get("stage") in {0, 2}]
    assert found
    assert [each for each in found if each["waits"] or each["calls"] > 20] == []


def test_a_gradient_in_shares_is_clipped_as_the_whole_one(told):
    found = [each for each in told if "clip_error" in each]
    assert len(found) == 2
    for each in found:
        assert each["clip_error"] < 1e-6
        assert abs(each["norm_error"]) < 1e-6


def test_the_bytes_on_the_wire_are_those_of_the_model_that_plans_them(told):
    for each in (each for each in told if each.get("precision") in BYTES):
        gradient_bytes, weight_bytes = BYTES[each["precision"]]
        expected = traffic(
            each["stage"],
            elements=each["elements"],
            accumulation=2,
            gradient_bytes=gradient_bytes,
            weight_bytes=weight_bytes,
        )
        counted = each["collective_bytes"]
        assert counted.get("reduce_scatter_base", 0) == pytest.approx(expected.reduce_scatter, rel=1e-3)
        assert counted.get("allreduce", 0) == pytest.approx(expected.all_reduce, rel=1e-3, abs=100)
        gathered = counted.get("allgather_base", 0)
        if each["stage"] == 3:
            assert 0 < gathered <= expected.all_gather
        else:
            assert gathered == pytest.approx(expected.all_gather, rel=1e-3)
