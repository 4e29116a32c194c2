"""A run that went back before a spike ends as one that had passed over the same data from the start."""

import json
import signal

import pytest
from endurance import TINY
from trainer_job import PLANTED, Job, losses, metric_rows, state_files

from pretrain.stream.ledger import account, detours, read

pytestmark = pytest.mark.slow

STEPS, SAVED, SPIKED, PER_STEP = 40, 35, 37, 4  # the last is sequences


def settings(shards, run_dir, stage):
    more = ["validation.every=0", "checkpoint.every=5", "roll_back.above_z=20", f"steps={STEPS}"]
    return [*TINY, *more, f"zero=stage{stage}", f"data.index={shards}", f"run_dir={run_dir}"]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_roll_back_passes_over_the_data_of_the_spike_also_after_a_kill(shards, tmp_path, stage):
    knew, rolled = tmp_path / "knew", tmp_path / "rolled"
    detour = [PER_STEP * SAVED, PER_STEP * SPIKED]
    knew.mkdir()
    (knew / "ledger.jsonl").write_text(json.dumps({"attempt": 0, "pass_over": detour}) + "\n")
    Job(knew, *settings(shards, knew, stage)).succeeded()

    plant = f"spike@{PER_STEP * SPIKED},kill@{SPIKED + 1}"
    job = Job(rolled, *settings(shards, rolled, stage), program=PLANTED, PLANT=plant)
    assert -signal.SIGKILL in job.wait()
    assert list(map(list, detours(rolled))) == [detour]
    alerts = [json.loads(line) for line in (rolled / "metrics.jsonl").read_text().splitlines()]
    assert "rolled back" in [line.get("alert") for line in alerts]
    again = Job(rolled, *settings(shards, rolled, stage), program=PLANTED, PLANT=plant.partition(",")[0])
    again.succeeded()

    assert f"resumed at step {SAVED} " in again.output()
    assert len(metric_rows(rolled)) > STEPS
    assert losses(rolled) == losses(knew)
    assert len(losses(knew)) == STEPS
    assert state_files(rolled, STEPS) == state_files(knew, STEPS)
    proof = account(read(rolled))
    assert (proof.lost, proof.duplicated, proof.changed_steps) == (0, 0, 0)
    assert proof.passed_over == detour[1] - detour[0]
    assert (proof.steps, proof.sequences) == (STEPS, PER_STEP * STEPS)
