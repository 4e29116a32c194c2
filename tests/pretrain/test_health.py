"""What a run does about numbers that are not sound, on one process: counting, comparing, naming."""

import random

import pytest
import torch

from conf.exits import NonFiniteError
from pretrain.health import Health, HealthConfig, Stragglers, deviants, fingerprint


def test_skipped_steps_end_the_run_only_if_they_follow_each_other(tmp_path):
    health = Health(HealthConfig(most_skipped=3), None, tmp_path / "checkpoints")
    for step, skipped in enumerate([True, True, False, True, True], start=1):
        health.heed(skipped, step)
    with pytest.raises(NonFiniteError, match="3 steps in a row, up to step 6"):
        health.heed(True, 6)


def test_a_cause_of_skipped_steps_is_told_once_and_again_after_a_hundred_steps_without_it(tmp_path):
    health = Health(HealthConfig(), None, tmp_path / "checkpoints")
    streak, now_and_then = [True] * 7, [step % 25 == 0 for step in range(300)]
    every_tenth = [step % 10 == 0 for step in range(200)]
    flags = [False] * 10 + streak + [False] * 100 + now_and_then + [False] * 100 + every_tenth
    told = [(step, news) for step, flag in enumerate(flags, 1) if (news := health.heed(flag, step))]
    assert [step for step, _ in told] == [15, 10 + 7 + 100 + 300 + 100 + 41]
    assert told[0][1] == "5 of the last 15 up to step 15: the gradient is not finite"


@pytest.mark.parametrize("most_skipped", [2, 4, 20])
def test_a_streak_of_skipped_steps_is_told_before_it_ends_the_run(tmp_path, most_skipped: int):
    health = Health(HealthConfig(most_skipped=most_skipped), None, tmp_path / "checkpoints")
    told = [health.heed(True, step) for step in range(1, most_skipped)]
    assert len(list(filter(None, told))) == 1
    with pytest.raises(NonFiniteError):
        health.heed(True, most_skipped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_any_flipped_bit_changes_a_fingerprint(dtype):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    tensor = torch.randn(7, 31, generator=torch.Generator().manual_seed(seed)).to(dtype)
    whole = fingerprint(tensor)
    for _ in range(200):
        byte = tensor.view(-1).view(torch.uint8)[generator.randrange(tensor.nbytes) :][:1]
        flip = 1 << generator.randrange(8)
        byte ^= flip
        assert fingerprint(tensor) != whole
        byte ^= flip
    assert fingerprint(tensor) == whole


def test_the_rank_that_differs_from_the_majority_is_named():
    same, other = {"a": 1, "b": 2}, {"a": 1, "b": 3}
    assert deviants([same, same, same]) == {}
    assert deviants([same, other, same]) == {1: ["b"]}
    assert deviants([other, same, same, same]) == {0: ["b"]}


def test_without_a_majority_every_rank_that_may_be_wrong_is_named():
    same, other = {"a": 1}, {"a": 2}
    assert deviants([same, other]) == {0: ["a"], 1: ["a"]}
    assert deviants([same, same, other, other]) == {0: ["a"], 1: ["a"], 2: ["a"], 3: ["a"]}


def test_a_straggler_is_named_once_after_twenty_slow_reports():
    stragglers = Stragglers()
    named = [stragglers.heed([1.0, 1.1, 1.7, 0.9]) for _ in range(30)]
    assert named == [None] * 19 + [2] + [None] * 10
    assert stragglers.heed([1.0, 1.1, 1.0, 0.9]) is None
    assert [stragglers.heed([1.0, 1.1, 1.7, 0.9]) for _ in range(20)][-1] == 2


def test_ranks_that_are_slow_now_and_then_are_no_stragglers():
    stragglers = Stragglers()
    generator = random.Random(0)
    named = [stragglers.heed([1.0 + (generator.random() < 0.2) for _ in range(4)]) for _ in range(200)]
    assert named == [None] * 200


@pytest.mark.parametrize("wrong", [{"most_skipped": 0}, {"compare_every": -1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HealthConfig(**wrong)
