"""The command that lets a user see for himself that resuming is exact."""

import shutil
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from trainer_job import Job, smoke

from pretrain.verify_resume import differences

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(shards, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("verified") / "run"
    Job(run_dir, *smoke(shards, run_dir, "steps=6", "checkpoint.every=3"), ranks=1).succeeded()
    return run_dir


def test_a_run_is_found_exact_and_left_as_it_was(run_dir):
    before = sorted(path.name for path in run_dir.iterdir())
    command = [sys.executable, "-m", "pretrain.verify_resume", f"run_dir={run_dir}", "steps=4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resume is exact: 4 losses, all weights and both moments" in done.stdout
    assert sorted(path.name for path in run_dir.iterdir()) == before


def test_one_flipped_bit_in_a_moment_is_named(run_dir, tmp_path):
    twin = tmp_path / "twin"
    shutil.copytree(run_dir, twin)
    assert list(differences(run_dir, twin, steps=6)) == []
    file = twin / "checkpoints" / "step-00000006" / "state-00000-of-00001.safetensors"
    tensors = safetensors.torch.load_file(file)
    key = "exp_avg/h.0.attn.c_attn.weight@0"
    tensors[key].view(dtype=torch.int32)[7] ^= 1
    safetensors.torch.save_file(tensors, file)
    (difference,) = differences(run_dir, twin, steps=6)
    assert difference == f"{key} in {file.name} differs in 1 of 3072 elements"


def test_another_loss_is_named_with_its_step(run_dir, tmp_path):
    twin = tmp_path / "twin"
    shutil.copytree(run_dir, twin)
    log = twin / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if '"step": 2,' in line and "train/loss" in line)
    lines[at] = lines[at].replace('"train/loss": 1', '"train/loss": 2', 1)
    log.write_text("".join(lines))
    (difference,) = differences(run_dir, twin, steps=6)
    assert difference.startswith("the loss of step 2 is 1")
