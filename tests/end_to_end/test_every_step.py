"""Whatever step a run resumes at, the next step leaves the same bits as if it had never stopped.

The states of all steps are kept, so equal states after one more step, from each of them, prove the whole
way by induction: a state is all that a run goes on with.
"""

import shutil

import pytest
from endurance import TINY
from trainer_job import Job, losses, state_files

from pretrain.storage.manifest import step_name

STEPS = 24
# 64 tokens a sequence and 106 sequences in all: an epoch ends within the run, in the middle of a batch.
_EPOCHS = ("model.context=64", "data.sequence_tokens=64", "batch.tokens=512")
WAYS = {
    "ZeRO-0 fp32 dropout": ("zero=stage0",),
    "ZeRO-1 fp32 dropout": ("zero=stage1",),
    "ZeRO-2 fp32 dropout": ("zero=stage2",),
    "ZeRO-3 fp32 dropout": ("zero=stage3",),
    "ZeRO-1 bf16, no accumulation": ("zero=stage1", "precision=bf16", "batch.micro_sequences=2"),
    "ZeRO-3 bf16": ("zero=stage3", "precision=bf16"),
    "ZeRO-2 autocast, no dropout": ("zero=stage2", "precision=autocast", "model.dropout=0.0"),
    "ZeRO-1 fp32, over two epochs": ("zero=stage1", *_EPOCHS),
}


def resume_at(way, steps, shards, directory):
    straight = directory / "straight"
    every = ["checkpoint.every=1", "checkpoint.keep_every=1", f"steps={STEPS}", f"data.index={shards}"]
    settings = [*TINY, *WAYS[way], *every]
    Job(straight, *settings, f"run_dir={straight}").succeeded()
    assert len(losses(straight)) == STEPS
    for step in steps:
        resumed = directory / f"at-{step}"
        (resumed / "checkpoints").mkdir(parents=True, mode=0o700)
        for name in ("config.yaml", "run.json"):
            shutil.copy(straight / name, resumed / name)
        if step:
            state = f"checkpoints/{step_name(step)}"
            shutil.copytree(straight / state, resumed / state)
        Job(resumed, *settings, f"run_dir={resumed}", f"stop_at={step + 1}").succeeded()
        assert state_files(resumed, step + 1) == state_files(straight, step + 1), step
        assert len(state_files(resumed, step + 1)) == 2
        assert losses(resumed) == {step + 1: losses(straight)[step + 1]}, step
        shutil.rmtree(resumed)


@pytest.mark.slow
def test_a_run_resumes_exactly_at_some_steps_of_two_epochs(other_index, tmp_path):
    resume_at("ZeRO-1 fp32, over two epochs", [0, 12, 13, 23], other_index, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
def test_a_run_resumes_exactly_at_every_step(other_index, tmp_path, way):
    resume_at(way, range(STEPS), other_index, tmp_path)
