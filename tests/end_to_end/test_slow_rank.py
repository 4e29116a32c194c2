"""One rank's storage is slow and the rank dies before its file is there: DeepSpeed's own save, and ours."""

import signal
from pathlib import Path

import pytest
from endurance import TINY
from trainer_job import LONGEST_SECONDS, PLANTED, Job, state_files

from pretrain.storage import commit

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
FOR_EVER = "1000"


def test_deepspeeds_own_checkpoint_is_named_before_it_is_whole_and_no_restart_survives_it(tmp_path):
    """The reason why we save the state ourselves; when this fails, DeepSpeed has mended it."""
    program = (str(HERE / "deepspeed_saves.py"),)
    saved, latest = tmp_path / "saved", tmp_path / "saved" / "latest"
    job = Job(tmp_path, str(saved), FOR_EVER, program=program)
    assert job.reaches(lambda: latest.exists() and latest.read_text() == "global_step6"), job.output()
    job.processes[1].send_signal(signal.SIGKILL)
    job.kill()
    files = {path.name for path in (saved / "global_step6").iterdir()}
    assert any("zero_pp_rank_0" in name for name in files)
    assert not any("zero_pp_rank_1" in name for name in files)
    for _ in range(2):
        again = Job(tmp_path, str(saved), "0", program=program)
        assert again.processes[1].wait(LONGEST_SECONDS) == 1, again.output(1)
        again.kill()
        assert "FileNotFoundError" in again.output(1)
        assert "step 3" not in again.output(1), "the whole checkpoint of step 3 is not looked at"


def test_ours_does_not_count_and_the_run_goes_on_from_the_one_before(other_index, tmp_path):
    run_dir = tmp_path / "run"
    settings = [*TINY, f"data.index={other_index}", f"run_dir={run_dir}", "steps=6", "validation.every=0"]
    job = Job(tmp_path, *settings, program=PLANTED, PLANT="slow-save@6#1")
    root = run_dir / "checkpoints"
    assert job.reaches(lambda: list(root.glob(".tmp-step-00000006-*/state-00000-*"))), job.output()
    job.processes[1].send_signal(signal.SIGKILL)
    assert job.wait()[1] == -signal.SIGKILL
    job.kill()
    assert [path.name for path in commit.checkpoints(root)] == ["step-00000003"]
    again = Job(tmp_path, *settings)
    again.succeeded()
    assert "resumed at step 3 of 6" in again.output()
    assert len(state_files(run_dir, 6)) == 2
