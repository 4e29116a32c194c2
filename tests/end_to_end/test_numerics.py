"""A number that is not finite, or not the same everywhere, never reaches the weights or a checkpoint."""

import json
import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from trainer_job import PLANTED, Job, metric_rows, state_files

from conf.exits import Exit
from pretrain.guard import attempts

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
FLIPS_PER_CASE = 6


@pytest.fixture(scope="module")
def injections(tmp_path_factory):
    directory = tmp_path_factory.mktemp("injected")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    job = Job(directory, str(directory), str(seed), str(FLIPS_PER_CASE), program=(str(HERE / "injected.py"),))
    job.succeeded()
    lines = [line for rank in range(2) for line in job.output(rank).splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines]


def test_a_gradient_that_is_not_finite_on_one_rank_changes_nothing_on_any(injections):
    poisoned = [each for each in injections if each["injection"] != "flip"]
    assert (
        len(poisoned) == 11 * 2 * 2 * 2
    )  # stage and precision, poisoned rank, NaN or infinity, reporting rank
    assert [each for each in poisoned if not (each["skipped"] and each["kept"] and each["went_on"])] == []


def test_a_flipped_bit_in_what_all_ranks_hold_is_found(injections):
    flipped = [each for each in injections if each["injection"] == "flip"]
    assert len(flipped) == 11 * FLIPS_PER_CASE * 2
    unheard = [
        each
        for each in flipped
        if each["name"] not in each["said"] or f"rank {each['at']}" not in each["said"]
    ]
    assert unheard == []


def test_endless_skipping_ends_the_run_and_names_the_last_good_state(shards, tmp_path):
    run_dir = tmp_path / "run"
    settings = ["experiment=smoke", f"data.index={shards}", f"run_dir={run_dir}", "checkpoint.every=2"]
    # Four micro-batches a step: the sixth step and all after it are poisoned, on rank 1 alone.
    more = ["batch.micro_sequences=2", "health.most_skipped=4", "validation.every=0"]
    job = Job(run_dir, *settings, *more, program=PLANTED, PLANT="poison@20#1")
    assert job.wait() == [Exit.NON_FINITE, Exit.NON_FINITE]
    # The state of step 8, in which nothing had changed since step 5, may still be on its way to the disk.
    assert re.search("last good state is step-0000000[68]", job.output())
    last = attempts.read(run_dir)[-1]
    assert (last["exit_code"], last["step"]) == (Exit.NON_FINITE, 9)
    name = "optim/skipped_steps"
    assert [row[name] for row in metric_rows(run_dir) if name in row] == [0, 0, 0, 0, 0, 1, 2, 3]
    Job(run_dir, *settings, *more, "stop_at=10").succeeded()
    again = [row for row in metric_rows(run_dir) if row["attempt"] == 1 and name in row]
    skipped = again[0]["step"] - 6  # all after the fifth, up to the state that it went on from
    assert {row[name] for row in again} == {skipped}
    states = [load(data) for step in (4, 6, 8) for data in state_files(run_dir, step).values()]
    assert all(torch.isfinite(tensor).all() for state in states for tensor in state.values())


def test_a_rank_with_other_bits_ends_the_run_before_it_can_save(shards, tmp_path):
    run_dir = tmp_path / "run"
    settings = ["experiment=smoke", f"data.index={shards}", f"run_dir={run_dir}", "checkpoint.every=3"]
    job = Job(run_dir, *settings, program=PLANTED, PLANT="flip@6#1")
    assert job.wait() == [Exit.CORRUPT, Exit.CORRUPT]
    assert "ln_f.weight" in job.output()
    assert "step-00000003" in job.output()
    assert state_files(run_dir, 3)
    assert not state_files(run_dir, 6)
