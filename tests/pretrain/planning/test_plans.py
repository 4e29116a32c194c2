"""A plan says what fits, what would, how fast and how long, for every published shape and size."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf import compose, option, typed
from conf.exits import ConfigError
from pretrain import plan
from pretrain.batch import BatchConfig
from pretrain.planning.endurance import best_interval, endurance
from pretrain.planning.hardware import hardware
from pretrain.planning.memory import Sharding, Work
from pretrain.planning.plans import Plan, Refusal, factorisations, memory_table, planned, smallest_that_fits
from pretrain.planning.question import Question, limit_hours, plan_config, question
from pretrain.planning.shape import Shape
from pretrain.planning.speed import speed
from pretrain.watching.reference import named

ROOT = Path(__file__).parents[3]
SIZES = (1, 8, 64, 512, 4096)
# Tokens of a batch and of a sequence: llm.c's for GPT-2; Brown et al., 2020, table 2.1 for GPT-3, rounded to
# a multiple of 2048 × 64.
SHAPES = {
    "gpt2_124m": (524_288, 1024),
    "gpt2_355m": (524_288, 1024),
    "gpt2_774m": (524_288, 1024),
    "gpt2_1558m": (1_048_576, 1024),
    "gpt3_125m": (524_288, 2048),
    "gpt3_350m": (524_288, 2048),
    "gpt3_760m": (524_288, 2048),
    "gpt3_1b3": (1_048_576, 2048),
    "gpt3_2b7": (1_048_576, 2048),
    "gpt3_6b7": (2_097_152, 2048),
    "gpt3_13b": (2_097_152, 2048),
    "gpt3_175b": (3_145_728, 2048),
}
# (model, tokens of a batch, micro-batch, GPU, tokens per second and GPU) of llm.c, as conf/references says.
PUBLISHED = [
    (reference, each.gpu, each.tokens_per_s_per_gpu)
    for reference in ("gpt2_124m_fineweb", "gpt2_355m_fineweb", "gpt2_774m_fineweb", "gpt2_1558m_fineweb_edu")
    for each in named(reference).speeds
    if each.code == "llm.c"
]


def asked(name: str, **changed: object) -> Question:
    tokens, sequence = SHAPES[name]
    raw = compose("plan", ["cluster=h100x8_infiniband", f"model={name}", "steps=1000"])
    config = plan_config(raw)
    base = question(raw, config, name)
    made = {"batch": BatchConfig(tokens, 16), "sequence_tokens": sequence, **changed}
    return replace(base, **made)  # pyright: ignore[reportArgumentType]


def test_all_shapes_and_sizes_are_planned_within_five_seconds():
    base = asked("gpt2_124m")
    started = time.process_time()
    for name, (tokens, sequence) in SHAPES.items():
        shape = typed(Shape, option("model", name))
        changed = {"model": shape, "batch": BatchConfig(tokens, 16), "sequence_tokens": sequence}
        each = replace(base, name=name, **changed)
        for ranks in SIZES:
            found = planned(each, ranks)
            assert isinstance(found, Plan | Refusal)
            if isinstance(found, Plan):
                assert found.memory_gib <= each.device.memory_gib
                assert (
                    found.cut.ranks * found.cut.accumulation * found.cut.micro_sequences * sequence == tokens
                )
                assert 0 < found.speed.mfu < 0.7
            else:
                assert found.reason
                assert found.remedy
    assert time.process_time() - started < 5


def test_175b_on_eight_gpus_is_refused_with_the_smallest_number_that_fits():
    question_asked = asked("gpt3_175b")
    refused = planned(question_asked, 8)
    assert isinstance(refused, Refusal)
    fewest = smallest_that_fits(question_asked)
    assert f"the smallest number that fits is {fewest}" in refused.remedy
    assert fewest is not None
    assert isinstance(planned(question_asked, fewest), Plan)
    sequences = question_asked.batch.tokens // question_asked.sequence_tokens
    smaller = [ranks for ranks in range(8, fewest, 8) if sequences % ranks == 0]
    assert smaller
    assert all(isinstance(planned(question_asked, ranks), Refusal) for ranks in smaller)


def test_settings_that_do_not_fit_come_back_with_those_that_do():
    found = planned(replace(asked("gpt2_1558m"), batch=BatchConfig(1_048_576, 128)), 8)
    assert isinstance(found, Plan)
    assert found.changes
    assert found.memory_gib <= 79
    overrides = dict(each.split("=") for each in found.changes)
    assert set(overrides) <= {"zero", "recompute", "batch.micro_sequences"}


def test_settings_that_fit_are_kept_as_they_are():
    found = planned(asked("gpt2_124m"), 8)
    assert isinstance(found, Plan)
    assert found.changes == ()
    assert (found.sharding.stage, found.cut.micro_sequences) == (1, 16)


def test_a_batch_smaller_than_the_ranks_is_refused_with_the_largest_number_that_can_share_it():
    refused = planned(asked("gpt2_124m"), 4096)
    assert isinstance(refused, Refusal)
    assert "at most 512 ranks can share 512 sequences" in refused.remedy


def test_of_a_growing_batch_the_ranks_must_share_the_first():
    growing = replace(asked("gpt3_125m"), batch=BatchConfig(524_288, 8, 32_768, 4_000_000_000))
    refused = planned(growing, 64)
    assert isinstance(refused, Refusal)
    assert "batch.warmup_from 32768 does not divide among 64 ranks" in refused.reason
    assert refused.remedy == "at most 16 ranks can share 16 sequences; or raise batch.warmup_from"
    found = planned(growing, 16)
    assert isinstance(found, Plan)
    assert (found.cut.micro_sequences, found.cut.accumulation) == (1, 16)


def test_the_smallest_number_that_fits_divides_the_first_of_growing_batches():
    # 24 sequences, then 48: 16 ranks divide the full batch alone.
    growing = replace(asked("gpt3_175b"), batch=BatchConfig(48 * 2048, 8, 24 * 2048, 10**9))
    huge = replace(growing, device=replace(growing.device, memory_gib=10**6))
    assert smallest_that_fits(huge) == 1
    assert smallest_that_fits(replace(growing, device=replace(growing.device, memory_gib=1))) is None


def test_a_batch_smaller_than_a_sequence_is_refused_in_words():
    refused = planned(replace(asked("gpt3_125m"), batch=BatchConfig(1000)), 1)
    assert isinstance(refused, Refusal)
    assert refused.remedy == "raise batch.tokens"


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16, 64])
def test_every_way_to_cut_a_batch_is_a_factorisation_of_it(ranks: int):
    for found, _ in factorisations(asked_once(), ranks):
        cut = found.cut
        assert cut.ranks * cut.accumulation * cut.micro_sequences == 512


@cache
def asked_once() -> Question:
    return asked("gpt2_124m")


@pytest.mark.parametrize(("reference", "gpu", "published"), PUBLISHED)
def test_the_speed_model_is_within_a_sixth_of_what_llm_c_reaches(reference: str, gpu: str, published: float):
    name = reference.removesuffix("_edu").removesuffix("_fineweb")
    shape = typed(Shape, option("model", name))
    tokens, sequence = SHAPES[name]
    work = Work(16, sequence, "bf16", compiled=True, on_gpu=True)
    accumulation = tokens // sequence // 8 // 16
    expected = speed(shape, hardware(gpu), Sharding(1, 8), work, accumulation=accumulation, ranks_per_node=8)
    assert expected.tokens_per_s / 8 == pytest.approx(published, rel=1 / 6)


def test_more_gpus_are_faster_but_each_of_them_is_slower():
    plans = [planned(asked_once(), ranks) for ranks in (1, 8, 64, 512)]
    speeds = [each.speed.tokens_per_s for each in plans if isinstance(each, Plan)]
    assert len(speeds) == 4
    assert speeds == sorted(speeds)
    each = [value / ranks for value, ranks in zip(speeds, (1, 8, 64, 512), strict=True)]
    assert each == sorted(each, reverse=True)


@given(st.floats(0.1, 300), st.floats(1e4, 1e8))
def test_no_other_interval_loses_less_time(save_seconds: float, between_failures: float):
    """Against the expected overhead itself, minimised by trying: save / interval + interval / (2 · M)."""

    def lost(interval: float) -> float:
        return save_seconds / interval + (interval + save_seconds) / (2 * between_failures)

    best = best_interval(save_seconds, between_failures)
    tried = min(lost(best * 1.02**step) for step in range(-200, 200))
    assert lost(best) <= 1.02 * tried


def test_a_time_limit_costs_starts_and_failures_cost_hours():
    plain = {"hours": 100.0, "save_seconds": 5.0, "write_seconds": 30.0, "startup_seconds": 120.0}
    alone = endurance(ranks=8, limit_hours=None, **plain)
    limited = endurance(ranks=8, limit_hours=24.0, **plain)
    many = endurance(ranks=4096, limit_hours=None, **plain)
    assert alone.starts == 1
    assert limited.starts == 5
    assert limited.hours > alone.hours > 100
    assert many.failures == pytest.approx(100 * 4096 / 50_700, rel=0.01)
    assert many.starts == 1 + math.ceil(many.failures - 0.5)
    assert many.interval_seconds < alone.interval_seconds


@pytest.mark.parametrize(
    ("text", "hours"),
    [("30", 0.5), ("90:00", 1.5), ("02:30:00", 2.5), ("1-00:00:00", 24), ("2-12", 60), (None, None)],
)
def test_a_time_limit_reads_as_slurm_reads_it(text: str | None, hours: float | None):
    assert limit_hours(text) == hours


def test_the_command_tells_the_whole_plan(capsys: pytest.CaptureFixture[str]):
    plan.main(["experiment=gpt2_124m", "cluster=h100x8_infiniband", "gpus=8"])
    text = capsys.readouterr().out
    for part in ("124,439,808 parameters", "854.4 million", "ZeRO stage", "tokens/s", "save every", "Disk:"):
        assert part in text
    assert "Other sizes" in text


def test_the_command_speaks_json(capsys: pytest.CaptureFixture[str]):
    plan.main(["experiment=gpt2_124m", "cluster=h100x8_infiniband", "gpus=8", "format=json"])
    told = json.loads(capsys.readouterr().out)
    assert told["asked"]["fits"]
    assert [each["ranks"] for each in told["sizes"]] == list(SIZES)
    assert sum(told["storage_bytes"].values()) > 0


def test_a_run_that_does_not_fit_ends_with_an_error_after_the_table(capsys: pytest.CaptureFixture[str]):
    overrides = ["model=gpt3_175b", "batch.tokens=3145728", "data.sequence_tokens=2048", "steps=95367"]
    with pytest.raises(ConfigError, match=r"does not fit 8 × H100.*smallest number that fits is 64"):
        plan.main([*overrides, "cluster=h100x8_infiniband", "gpus=8"])
    assert "Other sizes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cluster=local"], "steps has no value"),
        (["experiment=gpt2_124m", "cluster=slurm"], "hardware="),
        (["experiment=gpt2_124m", "hardware=H300"], "H300"),
        (["experiment=gpt2_124m", "hardware=CPU", "gpus=0"], "gpus must be at least 1"),
        (["experiments=gpt2_124m"], "neither all nor a list"),
    ],
)
def test_a_question_that_cannot_be_answered_names_the_way_out(overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        plan.main(overrides)


def test_planning_imports_no_torch():
    code = "import sys, pretrain.plan; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize(
    ("ranks", "precision", "stages"),
    [
        (1, "autocast", [(0, False), (1, True), (2, True), (3, False), (3, True)]),
        (1, "bf16", [(stage, offload) for stage in (1, 2, 3) for offload in (False, True)]),
        (8, "fp32", [(0, False), *((stage, offload) for stage in (1, 2, 3) for offload in (False, True))]),
    ],
)
def test_the_table_of_memory_shows_the_stages_that_the_trainer_would_run(
    ranks: int, precision: str, stages: list[tuple[int, bool]]
):
    question = asked("gpt2_124m", precision=precision, stage=1)
    plan = planned(question, ranks)
    assert isinstance(plan, Plan)
    assert list(memory_table(question, plan)) == stages
