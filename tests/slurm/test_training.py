"""What a cluster does to a training job, and that the job ends as if nothing had happened."""

import re
import sys
import time

import pytest
from training import RANKS, SAVE_EVERY, STEPS, Training, consumed, equals, figure, lost_nothing, read

from pretrain.stream import ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_LONGEST_SECONDS = 600


def resumed_steps(training: Training) -> list[int]:
    return [
        row["step"] for row in read(training.directory / "metrics.jsonl") if row.get("event") == "resumed"
    ]


def told(what: str, began: float) -> None:
    figure(f"{what}, to the first new step", time.monotonic() - began)


def test_a_job_submitted_by_hand_trains_on_two_nodes_to_the_last_step(straight):
    begun = [line for line in read(straight / "attempts.jsonl") if line["event"] == "begin"]
    assert [line["ranks"] for line in begun] == [RANKS]
    rows = read(straight / "metrics.jsonl")
    assert [row["step"] for row in rows if "val/loss" in row][-1] == STEPS
    names = sorted(path.name for path in (straight / "logs").glob("*/rank-*.log"))
    assert [name.split("-")[1] for name in names] == ["0", "1"]
    assert len({name.split("-")[2] for name in names}) == 2


@pytest.mark.soak
def test_the_signal_before_the_time_limit_saves_and_requeues(training, straight, cluster):
    training.submit()
    training.trains()
    step, began = max(training.losses()), time.monotonic()
    cluster.ask("scancel", "--batch", "--signal=USR1", training.job)  # what --signal=B:USR1@… sends
    training.trains_again(1, step)
    told("time-limit signal", began)
    assert not (training.directory / "STOP").exists()
    training.is_done()
    assert training.decisions() == ["requeue", "done"]
    assert [line["exit_code"] for line in training.outcomes()] == [75, 0]
    assert resumed_steps(training)[0] >= step
    assert cluster.fact(training.job, "Restarts") == "1"
    equals(training.directory, straight)


@pytest.mark.soak
def test_a_preempted_job_saves_and_goes_on_when_the_nodes_are_free(training, straight, cluster):
    # As in a container, the ranks start in a folder that is not the code's.
    training.submit("--partition=low", "--exclusive", settings=("+cluster.slurm={train:{wrap:[env,-C,/]}}",))
    training.trains()
    step, began = max(training.losses()), time.monotonic()
    other = cluster.submit(
        "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=srun sleep 1"
    )
    assert cluster.ended(other) == "COMPLETED"
    training.trains_again(1, step)
    told("preemption", began)
    training.is_done()
    assert training.decisions()[-1] == "done"
    assert resumed_steps(training)[0] >= step
    equals(training.directory, straight)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("what", "lost"), [("off", 0), ("off", 1), ("cut", 0)], ids=["first-off", "other-off", "first-cut"]
)
def test_a_lost_node_costs_what_was_not_saved(training, straight, cluster, what, lost):
    training.submit()
    training.trains()
    nodes = cluster.ask("scontrol", "show", "hostnames", cluster.shown(training.job, "%N")).split()
    step, began = max(training.losses()), time.monotonic()
    cluster.control(what, nodes[lost])
    training.trains_again(1, step)
    told(f"{'power-off' if what == 'off' else 'cable pulled'}, {('first', 'other')[lost]} node", began)
    cluster.control("heal", nodes[lost])
    training.is_done()
    assert training.decisions()[-1] == "done"
    assert resumed_steps(training)[0] % SAVE_EVERY == 0
    assert nodes[lost] in [node for line in training.outcomes() for node in line["faulty_nodes"]]
    equals(training.directory, straight)


@pytest.mark.soak
def test_ranks_on_a_node_that_was_cut_off_publish_nothing(training, cluster):
    training.submit(nodes="1", settings=("steps=3000",))
    training.trains()
    node = cluster.shown(training.job, "%N")
    old = training.directory / "logs" / f"{training.job}.0"
    cluster.control("cut", node)
    cluster.until(
        lambda: "taken over by" in "".join(path.read_text() for path in old.glob("rank-*.log")),
        "the old ranks, which train on, learn that they were replaced",
    )
    training.trains_again(1)
    cluster.control("heal", node)
    cluster.until(lambda: min(fences(training)) > 1, "the newest checkpoints are the new ranks'")
    assert cluster.shown(training.job, "%N") != node
    # Nor does its supervisor, back in the network, requeue the start that has replaced it.
    assert "was replaced by a later one" in training.log.read_text()
    assert training.decisions()[0] == "lost"
    assert [line for line in training.outcomes() if line["restart"] == 0] == training.outcomes()[:1]
    # Its disk was not cut off: what the old ranks wrote on and on does not count either.
    newest = training.newest_step()
    account = ledger.account(entry for entry in ledger.read(training.directory) if entry.step <= newest)
    assert account.steps == newest
    assert (account.lost, account.duplicated, account.changed_steps) == (0, 0, 0)


@pytest.mark.soak
def test_a_real_time_limit_is_never_reached(training, straight, tmp_path):
    # The first start is slow, so that the time is over in the middle of the training.
    slow = tmp_path / "slow.sh"
    slow.write_text('[[ -n ${SLURM_RESTART_COUNT:-} ]] || sleep 25\nexec "$@"\n')
    training.submit(
        "--time=1",
        "--signal=B:USR1@15",
        settings=("stop.margin_seconds=12", f"+cluster.slurm={{train:{{wrap:[bash,{slow}]}}}}"),
    )
    training.is_done()
    assert training.decisions()[-1] == "done"
    assert set(training.decisions()[:-1]) == {"requeue"}
    assert {line["exit_code"] for line in training.outcomes()[:-1]} == {75}
    equals(training.directory, straight)


@pytest.mark.soak
def test_with_a_range_of_nodes_a_run_goes_on_with_fewer(training, straight, cluster):
    training.submit("--exclude=n3,n4", nodes="1-2", settings=("+cluster.slurm={train:{ranks_per_node:1}}",))
    training.trains()
    before = max(training.losses())
    cluster.control("off", "n2")
    training.is_done()
    begun = [
        line["ranks"] for line in read(training.directory / "attempts.jsonl") if line["event"] == "begin"
    ]
    assert begun == [2, 1]
    reference = Training(cluster, training.index, straight).losses()
    assert sorted(training.losses()) == sorted(reference)
    assert training.losses()[1] == reference[1]
    assert before < STEPS
    for step, loss in training.losses().items():
        assert loss == pytest.approx(reference[step], rel=1e-3)
    lost_nothing(training.directory)
    ours, theirs = consumed(training.directory), consumed(straight)
    assert {step: each[:2] for step, each in ours.items()} == {
        step: each[:2] for step, each in theirs.items()
    }


@pytest.mark.soak
def test_training_does_not_notice_a_restart_of_the_controller(training, straight, cluster):
    training.submit()
    training.trains()
    cluster.control("off", "ctl")
    step = max(training.losses())
    cluster.until(lambda: max(training.losses()) > step, "training goes on without a controller")
    began = time.monotonic()
    cluster.control("on", "ctl")
    cluster.until(lambda: cluster.tried("squeue").returncode == 0, "the controller answers")
    figure("controller restarted, to its first answer (training never stopped)", time.monotonic() - began)
    training.is_done()
    assert training.decisions() == ["done"]
    equals(training.directory, straight)


def test_a_requeue_by_hand_saves_and_goes_on(training, straight, cluster):
    training.submit()
    training.trains()
    step, began = max(training.losses()), time.monotonic()
    cluster.ask("scontrol", "requeue", training.job)
    training.trains_again(1, step)
    told("scontrol requeue", began)
    training.is_done()
    assert training.decisions()[-1] == "done"
    assert cluster.fact(training.job, "Restarts") == "1"
    equals(training.directory, straight)


@pytest.mark.soak
def test_a_cancelled_job_saves_and_stays_cancelled(training, cluster):
    training.submit()
    training.trains()
    step = max(training.losses())
    began = time.monotonic()
    cluster.ask("scancel", training.job)
    assert cluster.ended(training.job, 60) == "CANCELLED"
    cluster.until(lambda: not cluster.ask("squeue", "--noheader"), "the nodes are free")
    figure("scancel, to the nodes being free", time.monotonic() - began)
    assert cluster.state(training.job) == "CANCELLED"
    assert cluster.fact(training.job, "Restarts") == "0"
    assert training.newest_step() >= step - SAVE_EVERY
    assert training.newest_step() not in (0, STEPS)
    assert not list((training.directory / "checkpoints").glob(".tmp-*"))


def test_a_second_job_of_a_run_is_refused_and_the_first_goes_on(training, straight, cluster):
    training.submit()
    training.trains()
    first = training.job
    training.submit()
    second = training.job
    assert cluster.ended(second) == "FAILED"
    assert cluster.fact(second, "ExitCode") == "16:0"
    assert (
        f"job {first} (RUNNING) holds this run already; wait for it, or scancel {first}" in training.words()
    )
    training.job = first
    assert not training.ended()
    training.is_done()
    assert training.decisions() == ["done"]
    assert {line["job"] for line in read(training.directory / "attempts.jsonl") if "job" in line} == {first}
    equals(training.directory, straight)


def test_a_run_that_ends_early_is_done_and_goes_on_with_more_patience(training, cluster):
    # At a rate so small that no weight changes, every validation after the first is in vain.
    training.submit(settings=("schedule.peak=1e-30", "validation.every=2", "validation.patience=1"))
    assert cluster.ended(training.job) == "COMPLETED", training.words()
    assert cluster.fact(training.job, "Restarts") == "0"
    assert training.decisions() == ["done"]
    assert training.newest_step() == 4
    assert (training.directory / "page.html").exists()
    training.submit(settings=("schedule.peak=1e-30", "validation.every=2", "validation.patience=2"))
    assert cluster.ended(training.job) == "COMPLETED", training.words()
    assert training.decisions() == ["done", "done"]
    assert training.newest_step() == 6


@pytest.mark.soak
def test_a_file_stop_ends_a_job_that_is_not_requeued(training, cluster):
    training.submit()
    training.trains()
    (training.directory / "STOP").touch()
    assert cluster.ended(training.job) == "COMPLETED"
    assert training.decisions() == ["stopped"]
    assert cluster.fact(training.job, "Restarts") == "0"


@pytest.mark.soak
def test_torchrun_by_hand_trains_on_two_hosts(training, straight, cluster):
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    command += ["--master-addr=n1", "--master-port=29500"]
    hosts = [
        cluster.start("n1", *command, "--node-rank=0", "-m", "pretrain.train", *training.settings),
        cluster.start("n2", *command, "--node-rank=1", "-m", "pretrain.train", *training.settings),
    ]
    assert [host.wait(_LONGEST_SECONDS) for host in hosts] == [0, 0]
    equals(training.directory, straight)


def fences(training: Training) -> list[int]:
    """Return the fences of the checkpoints that count."""
    found = (training.directory / "checkpoints").glob("step-*/MANIFEST.json")
    return [int(re.findall(r'"fence":\s*(\d+)', path.read_text())[0]) for path in sorted(found)]
