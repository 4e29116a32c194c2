"""A crash is worth another start on a cluster, but not a third one at the same step."""

import pytest
from training import ROOT, read

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_crash_that_comes_back_is_not_requeued_a_third_time(training, cluster, tmp_path):
    crash = tmp_path / "crash.sh"
    crash.write_text('[[ $SLURM_PROCID != 0 ]] || { echo "planted crash" >&2; exit 41; }\nexec "$@"\n')
    training.submit(settings=(f"+cluster.slurm={{train:{{wrap:[bash,{crash}]}}}}",))
    assert cluster.ended(training.job) == "FAILED"
    assert cluster.fact(training.job, "ExitCode") == "41:0"
    assert cluster.fact(training.job, "Restarts") == "2"
    assert training.decisions() == ["requeue", "requeue", "failed"]
    outcomes = training.outcomes()
    assert [line["exit_code"] for line in outcomes] == [41, 41, 41]
    assert "3 crashes in a row at the same checkpoint" in outcomes[-1]["reason"]
    assert "planted crash" in training.log.read_text()
    # Rank 0 was on n1 each time, but what the program itself does says nothing of a node.
    assert [line["faulty_nodes"] + line["excluded_nodes"] for line in outcomes] == [[], [], []]
    assert "41 on n1;" in training.log.read_text()


@pytest.mark.soak
def test_a_node_on_which_ranks_are_killed_twice_is_left_out_of_the_next_start(training, cluster, tmp_path):
    kill = tmp_path / "kill.sh"
    kill.write_text('[[ $SLURMD_NODENAME != n1 ]] || kill -KILL $$\nexec "$@"\n')
    training.submit(settings=(f"+cluster.slurm={{train:{{wrap:[bash,{kill}]}}}}",))
    training.is_done()
    outcomes = training.outcomes()
    assert [line["exit_code"] for line in outcomes] == [137, 137, 0]
    assert [line["faulty_nodes"] for line in outcomes] == [["n1"], ["n1"], []]
    assert outcomes[1]["excluded_nodes"] == ["n1"]
    launches = [line for line in read(training.directory / "attempts.jsonl") if line["event"] == "launch"]
    assert "n1" not in launches[2]["nodes"]


@pytest.mark.soak
def test_a_crash_at_a_step_is_not_requeued_a_third_time(training, cluster, tmp_path):
    # Rank 1, on the second node, raises before its eighth step, whenever it comes there.
    planted = tmp_path / "planted.sh"
    planted.write_text(
        "export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID PLANT=crash@7#1\n"
        f'exec "$1" {ROOT}/tests/end_to_end/planted.py "${{@:4}}"\n'
    )
    training.submit(settings=(f"+cluster.slurm={{train:{{wrap:[bash,{planted}]}}}}",))
    assert cluster.ended(training.job) == "FAILED"
    assert cluster.fact(training.job, "Restarts") == "2"
    outcomes = training.outcomes()
    assert [line["decision"] for line in outcomes] == ["requeue", "requeue", "failed"]
    assert [(line["from_step"], line["to_step"]) for line in outcomes] == [(0, 5), (5, 5), (5, 5)]
    assert cluster.fact(training.job, "ExitCode") == f"{outcomes[-1]['exit_code']}:0"
    assert "planted" in outcomes[-1]["reason"]
