import pytest

from pretrain import distributed

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_NODELIST": "n[1-3]",
}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n[1-3]", "n1"),
        ("n[08-11,13],m2", "n08"),
        ("gpu-a,gpu-b", "gpu-a"),
        ("gpu-a-[3,5]", "gpu-a-3"),
        ("rack[2-3]node[05-06]", "rack2node05"),
    ],
)
def test_the_ranks_of_a_step_meet_on_its_first_node(nodes, first):
    ours = distributed.step_environment({**STEP, "SLURM_STEP_NODELIST": nodes})
    assert ours["MASTER_ADDR"] == first
    assert ours["MASTER_PORT"] == "24711"


def test_a_task_of_a_step_is_a_rank(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is as before, afterwards
        monkeypatch.delenv(name)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    assert distributed.launched_rank() == (5, 6)


def test_a_batch_script_without_srun_is_a_world_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert distributed.launched_rank() == (0, 1)


def test_torchrun_inside_a_step_is_believed(monkeypatch):
    for name, value in {**STEP, "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert distributed.launched_rank() == (1, 2)
