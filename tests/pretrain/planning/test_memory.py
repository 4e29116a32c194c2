"""What the planner says of memory is what DeepSpeed's estimators say, and what a training process takes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from conf import compose, option, typed
from pretrain.planning.memory import Sharding, Work, host_bytes, needed, states
from pretrain.planning.plans import Plan, planned
from pretrain.planning.question import plan_config, question
from pretrain.planning.shape import Shape

ROOT = Path(__file__).parents[3]
GPUS = [(8, 1), (8, 8), (8, 64)]


def shape(name: str) -> Shape:
    return typed(Shape, option("model", name))


@pytest.mark.parametrize("name", ["gpt2_124m", "gpt2_1558m", "gpt3_13b"])
@pytest.mark.parametrize(("per_node", "nodes"), GPUS)
def test_stage_2_states_are_what_deepspeed_estimates(name: str, per_node: int, nodes: int):
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    found, ranks = shape(name), per_node * nodes
    count = found.padded_parameters
    _, theirs = estimate_zero2_model_states_mem_needs(count, per_node, nodes, cpu_offload=False)
    ours = sum(states(found, Sharding(2, ranks), "bf16").values())
    # We sum the micro-batches' gradients in fp32 where they count on bf16.
    assert ours - 2 * count / ranks == pytest.approx(theirs, rel=1e-6)
    _, offloaded = estimate_zero2_model_states_mem_needs(count, per_node, nodes, cpu_offload=True)
    ours = sum(states(found, Sharding(2, ranks, offload=True), "bf16").values())
    assert ours == pytest.approx(offloaded, rel=1e-6)


@pytest.mark.parametrize("name", ["gpt2_124m", "gpt2_1558m", "gpt3_13b"])
@pytest.mark.parametrize(("per_node", "nodes"), GPUS)
def test_stage_3_states_are_what_deepspeed_estimates(name: str, per_node: int, nodes: int):
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    found, ranks = shape(name), per_node * nodes
    count = found.padded_parameters
    _, theirs, largest = estimate_zero3_model_states_mem_needs(
        count, 1, per_node, nodes, cpu_offload=False, cpu_offload_params=False
    )
    parts = states(found, Sharding(3, ranks), "bf16")
    # They leave out the fp32 gradients of the step, which stage 3 holds a sub-group at a time.
    assert sum(parts.values()) - parts["gradient of a step"] == pytest.approx(theirs - largest, rel=1e-6)
    _, offloaded, largest = estimate_zero3_model_states_mem_needs(
        count, 1, per_node, nodes, cpu_offload=True, cpu_offload_params=False
    )
    ours = sum(states(found, Sharding(3, ranks, offload=True), "bf16").values())
    assert ours == pytest.approx(offloaded - largest, rel=1e-6)


def test_a_higher_stage_never_needs_more_for_the_states():
    for precision in ("autocast", "fp32"):
        sums = [
            sum(states(shape("gpt2_355m"), Sharding(stage, 64), precision).values()) for stage in range(4)
        ]
        assert sums == sorted(sums, reverse=True)


def test_offload_moves_states_into_the_hosts_memory():
    found = shape("gpt2_355m")
    for stage in (1, 2, 3):
        here, there = Sharding(stage, 8), Sharding(stage, 8, offload=True)
        assert sum(states(found, there, "bf16").values()) < sum(states(found, here, "bf16").values())
        assert host_bytes(found, there) > host_bytes(found, here)


@pytest.mark.parametrize("precision", ["autocast", "bf16", "fp32"])
def test_recomputing_needs_less_memory(precision: str):
    found = shape("gpt2_774m")
    sums = [
        sum(needed(found, Sharding(1, 8), Work(8, 1024, precision, True, True, mode)).values())
        for mode in ("none", "selective", "full")
    ]
    assert sums[0] > sums[1] > sums[2]


def peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """Return the most that any process below `process`, or it itself, ever held, as the kernel counts."""
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                text = Path(f"/proc/{each.pid}/status").read_text()
            except OSError:
                continue
            if found := [line for line in text.splitlines() if line.startswith("VmHWM")]:
                peaks[each.pid] = 1024 * int(found[0].split()[1])
        time.sleep(0.05)
    return max(peaks.values())


@pytest.mark.soak
@pytest.mark.timeout(1200)  # a minute and a half alone; but the machine may be shared
def test_the_demo_takes_the_memory_that_was_planned(tiny_index: Path, tmp_path: Path):
    # Of the demo's step only one micro-batch, as the peak is the same for four; saves go on while it trains.
    overrides = ["experiment=demo", "batch.tokens=1024", "steps=4", "schedule.warmup_steps=1"]
    overrides += ["checkpoint.every=1", "validation.tokens=1024", "tracking=disabled"]
    raw = compose("plan", [*overrides, "hardware=CPU"])
    expected = planned(question(raw, plan_config(raw), "demo"), 1)
    command = [sys.executable, "-m", "pretrain.train", *overrides, f"data.index={tiny_index}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, f"run_dir={tmp_path / 'run'}"], cwd=ROOT, env=environment) as process:
        measured = peak_bytes(process)
    assert process.returncode == 0
    print(f"measured {measured / 2**20:.0f} MiB, planned {expected.memory_gib * 2**10:.0f} MiB")
    assert isinstance(expected, Plan)
    assert measured == pytest.approx(expected.memory_gib * 2**30, rel=0.1)
