"""A sweep is one array: a run for each combination, side by side, compared at the end."""

import json
import sys
from pathlib import Path

import pytest
from left_state import leave_state
from omegaconf import OmegaConf
from slurm_cluster import Cluster
from training import ROOT, read

from conf.exits import ConfigError
from slurm import chain, submission, sweep


@pytest.fixture
def settings(tiny_index: Path, tmp_path: Path) -> list[str]:
    """Return a sweep of three learning rates."""
    return [
        "experiment=smoke",
        "cluster=test",
        f"run_dir='{tmp_path}/a sweep'",
        f"data.index='{tiny_index}'",
        "batch.tokens=256",
        "schedule.peak=1e-3,3e-3,1e-2",
    ]


def freeze(runs: tuple[submission.Planned, ...]) -> None:
    for run in runs:
        run.directory.mkdir(parents=True)
        (run.directory / "config.yaml").write_text(OmegaConf.to_yaml(run.raw, resolve=True))


def test_a_run_is_named_by_its_number_and_what_sets_it_apart():
    assert sweep.directory_name(1, ["schedule.peak=0.001", "+zero=stage2"]) == "01-peak_0.001-zero_stage2"
    assert sweep.directory_name(0, ["data.index='/a b/c=d,e'"]) == "00-index__a_b_c_d_e"
    assert len(sweep.directory_name(123, ["name=" + "x" * 500])) == 100


def test_each_value_becomes_a_run_and_all_are_one_array(settings, tmp_path):
    _, asked = submission.settled([*settings, "multirun=true", "cluster.slurm.train.at_once=2"])
    names = ["00-peak_0.001", "01-peak_0.003", "02-peak_0.01"]
    assert [run.directory for run in asked.runs] == [tmp_path / "a sweep" / name for name in names]
    assert [run.config.schedule.peak for run in asked.runs] == [0.001, 0.003, 0.01]
    assert {run.config.tracking.group for run in asked.runs} == {"a sweep"}
    train = chain.jobs(asked.request)[0]
    assert "--array=0,1,2%2" in train.options
    assert train.arguments == (f"runs='{tmp_path}/a sweep'",)


def test_a_sweep_goes_on_with_the_runs_that_are_not_done(settings, tmp_path):
    freeze(submission.settled([*settings, "multirun=true"])[1].runs)
    leave_state(tmp_path / "a sweep" / "01-peak_0.003", 20)
    for words in ([*settings, "multirun=true"], [f"run_dir='{tmp_path}/a sweep'", "cluster=test"]):
        _, asked = submission.settled(words)
        assert asked.request.tasks == (0, 2)
        assert [run.config.schedule.peak for run in asked.runs] == [0.001, 0.01]


def test_the_folder_of_another_sweep_is_refused(settings):
    freeze(submission.settled([*settings, "multirun=true"])[1].runs)
    with pytest.raises(ConfigError, match="holds another sweep, of 3 runs"):
        submission.settled([*settings[:-1], "schedule.peak=1e-3,5e-3", "multirun=true"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["multirun=true", "cluster.slurm.train.nodes=1,2"], "no setting of cluster can take several values"),
        (["multirun=true", "only=prepare"], "--multirun trains, --only prepare does not"),
        (["multirun=true", "seed=1,,2"], "write key=A,B,C"),
        ([], "--multirun"),
    ],
)
def test_what_is_no_sweep_is_told_in_one_line(settings, more, told):
    with pytest.raises(ConfigError, match=told) as caught:
        submission.settled([*settings, *more])
    assert "\n" not in str(caught.value)


def test_an_array_task_finds_its_run_and_another_is_refused(settings, tmp_path):
    freeze(submission.settled([*settings, "multirun=true"])[1].runs)
    assert sweep.run_of_task(tmp_path / "a sweep", 2).name == "02-peak_0.01"
    with pytest.raises(ConfigError, match=r"holds no run 3 \(there are: 0, 1, 2\)"):
        sweep.run_of_task(tmp_path / "a sweep", 3)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_three_learning_rates_are_three_array_tasks_and_end_in_one_table(
    cluster: Cluster, settings, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    size = [
        "cluster.slurm.train.nodes='1'",
        "cluster.slurm.train.ranks_per_node=1",
        "steps=4",
        "cluster.slurm.train.gpus_per_node=1",
    ]
    command = [sys.executable, "-m", "slurm.submit", *settings, *size, "--multirun", "--watch"]
    done = cluster.tried(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "a sweep"
    jobs = json.loads((folder / "slurm" / "jobs.json").read_text())
    runs = sweep.runs(folder)
    assert len(runs) == 3
    for task, run in runs.items():
        launches = [line for line in read(run / "attempts.jsonl") if line["event"] == "launch"]
        assert [line["job"] for line in launches] == [f"{jobs['train']}_{task}"]
        outcomes = [line for line in read(run / "attempts.jsonl") if line["event"] == "outcome"]
        assert [line["decision"] for line in outcomes] == ["done"]
        rates = [row["optim/lr"] for row in read(run / "metrics.jsonl") if "optim/lr" in row]
        assert len(rates) == 4
    assert list(jobs) == ["train", "report"]
    table = (folder / "report.md").read_text()
    for run in runs.values():
        assert run.name.replace("_", r"\_") in table  # Markdown
    assert table in done.stdout
    again = cluster.tried(*command)
    assert again.returncode == 10
    assert again.stderr.count("has trained all its steps") == 3
