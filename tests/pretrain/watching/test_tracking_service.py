"""The real wandb client against a service on this machine: what arrives, and what faults cost training."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from local_wandb import LocalWandb, Run
from tracked import Child, clean_environment, offline_files, recorded_steps, started, tracked

pytestmark = pytest.mark.slow

# A call writes one line and fills a queue: 0.05 ms here. The slowest shares two cores with the import of
# wandb and with other work; what it must never do is wait for the service, which would take seconds.
TYPICAL_CALL_MS = 2.0
SLOWEST_CALL_MS = 1000.0
LONGEST_EXIT_SECONDS = 10


# A test that asks what arrives must not fail because the machine was too busy to send it in time.
PATIENT = {"init_timeout_seconds": 90, "finish_timeout_seconds": 90}


def assert_shown(run: Run, run_dir: Path) -> None:
    """The last attempt's checkpoint, sample and table are there."""
    last = max(row["step"] for row in run.history)
    where = str((run_dir / "checkpoints" / f"step-{last:08d}").resolve())
    assert (run.summary["checkpoint/step"], run.summary["checkpoint/path"]) == (last, where)
    tables = {name.split("/")[2]: data for name, data in run.files.items() if name.startswith("media/table/")}
    (samples,) = [json.loads(data) for name, data in tables.items() if name.startswith("samples")]
    assert samples["data"] == [[last, "The sea", " answered."]]
    scores = json.loads(tables["eval"])
    assert scores == {
        **scores,
        "columns": ["task", "accuracy"],
        "data": [["lambada", 0.3], ["hellaswag", 0.29]],
    }


def test_online_three_attempts_are_one_run_with_every_row(tmp_path: Path):
    with LocalWandb() as service:
        for attempt, (first, last) in enumerate([(1, 30), (21, 60), (51, 80)]):
            child = tracked(
                tmp_path,
                service.environment,
                first=first,
                last=last,
                attempt=attempt,
                config={**PATIENT, "wandb": "online", "tags": ["t"], "group": "g"},
                settings={"steps": 80, "job": f"job-{attempt}", "code_commit": "abc+changes"},
                shows=attempt == 2,
                alerts=[["slow", f"attempt {attempt}", "WARN"]],
            )
            assert child.exit_code == 0, child.says
        (run,) = service.runs.values()
        assert service.unknown == []
    rows = [row for row in run.history if "train/loss" in row]
    assert [row["step"] for row in rows] == [*range(1, 31), *range(21, 61), *range(51, 81)]
    assert [row["_step"] for row in rows] == list(range(100))
    assert {row["attempt"] for row in rows} == {0, 1, 2}
    assert (run.config["job"], run.exit_code) == ("job-2", 0)
    assert run.config["code_commit"] == "abc+changes"
    assert run.summary["train/loss"] == pytest.approx(3 + 1 / 80)
    assert_shown(run, tmp_path)
    assert (run.described["displayName"], run.described["groupName"]) == (tmp_path.name, "g")
    assert [text for _, _, text in run.alerts] == ["attempt 0", "attempt 1", "attempt 2"]
    assert recorded_steps(tmp_path) == list(range(1, 81))


def test_offline_attempts_become_one_run_when_synced(tmp_path: Path):
    with LocalWandb() as service:
        for attempt, (first, last) in enumerate([(1, 30), (21, 50)]):
            config = {**PATIENT, "wandb": "offline"}
            order = {"first": first, "last": last, "attempt": attempt, "shows": attempt == 1}
            child = tracked(tmp_path, config=config, alerts=[["slow", f"attempt {attempt}", "WARN"]], **order)
            assert child.exit_code == 0, child.says
        assert service.operations == []
        wandb = Path(sys.executable).with_name("wandb")
        command = [str(wandb), "sync", "--yes", *map(str, sorted((tmp_path / "wandb").glob("offline-run-*")))]
        environment = clean_environment(**service.environment)
        subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True, timeout=60)
        (run,) = service.runs.values()
        assert service.unknown == []
    steps = [row["step"] for row in run.history if "train/loss" in row]
    assert steps == [*range(1, 31), *range(21, 51)]
    assert [text for _, _, text in run.alerts] == ["attempt 0", "attempt 1"]
    assert run.summary["train/loss"] == pytest.approx(3 + 1 / 50)
    assert_shown(run, tmp_path)


@pytest.mark.soak  # the client sends about every 15 s
def test_rows_arrive_while_an_offline_run_still_trains(tmp_path: Path):
    """As on a login node, which sees the compute node's files and has a network."""
    go_on = tmp_path / "go"
    with LocalWandb() as service:
        order = {"last": 200, "wait_for_file_at": 100, "file": str(go_on), "config": {"wandb": "offline"}}
        training = started(tmp_path / "run", **order)
        while not (folders := list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))):
            time.sleep(0.1)
        command = [str(Path(sys.executable).with_name("wandb")), "beta", "sync", "--live", "--yes"]
        sync = subprocess.Popen(
            [*command, str(folders[0].parent)],
            env=clean_environment(**service.environment),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not service.runs or len(next(iter(service.runs.values())).history) < 100:
            assert sync.poll() is None, "it gave up"
            time.sleep(0.2)
        assert training.poll() is None
        go_on.touch()
        assert (training.wait(90), sync.wait(90)) == (0, 0)
        training.communicate()
        (run,) = service.runs.values()
        assert service.unknown == []
    assert [row["step"] for row in run.history] == list(range(1, 201))


FAULTS: dict[str, Callable[[LocalWandb], None]] = {
    "refuses connections": lambda service: service.kill(),
    "refuses the key": lambda service: service.status_for.update({"*": 401}),
    "answers 500": lambda service: service.status_for.update({"*": 500}),
    "hangs": lambda service: service.delay_for.update({"*": 60.0}),
    "is slow": lambda service: service.delay_for.update({"*": 0.7}),
    "takes no rows": lambda service: service.status_for.update({"file_stream": 500}),
    "holds rows back": lambda service: service.delay_for.update({"file_stream": 60.0}),
    "reports a conflict": lambda service: service.status_for.update({"file_stream": 409}),
}


def assert_training_did_not_notice(child: Child, run_dir: Path, last: int) -> None:
    assert child.exit_code == 0, child.says
    assert "Traceback" not in child.says
    assert recorded_steps(run_dir) == list(range(1, last + 1))
    assert child.typical_ms < TYPICAL_CALL_MS
    assert child.slowest_ms < SLOWEST_CALL_MS
    assert child.exit_seconds < LONGEST_EXIT_SECONDS


@pytest.mark.parametrize("mode", ["auto", "online"])
@pytest.mark.parametrize("fault", FAULTS)
def test_training_does_not_notice_that_the_service(fault: str, mode: str, tmp_path: Path):
    service = LocalWandb()
    with service:
        FAULTS[fault](service)
        config = {"wandb": mode, "init_timeout_seconds": 3, "finish_timeout_seconds": 6}
        child = tracked(tmp_path, service.environment, last=100, config=config)
        service.delay_for.clear()
    assert_training_did_not_notice(child, tmp_path, 100)


@pytest.mark.parametrize("fault", ["refuses connections", "answers 500", "hangs"])
def test_training_does_not_notice_that_in_the_middle_the_service(fault: str, tmp_path: Path):
    signal_file = tmp_path / "go"
    service = LocalWandb()
    with service:
        config = {"wandb": "online", "finish_timeout_seconds": 6}
        order = {"last": 300, "config": config, "wait_for_file_at": 100, "file": str(signal_file)}
        process = started(tmp_path / "run", service.environment, **order)
        while "file_stream" not in service.operations:
            time.sleep(0.05)
        FAULTS[fault](service)
        signal_file.touch()
        output, says = process.communicate(timeout=60)
        service.delay_for.clear()
    told = json.loads(output.splitlines()[-1])
    assert process.returncode == 0
    assert recorded_steps(tmp_path / "run") == list(range(1, 301))
    assert told["typical_ms"] < TYPICAL_CALL_MS
    assert told["slowest_ms"] < SLOWEST_CALL_MS
    assert told["finish_seconds"] < LONGEST_EXIT_SECONDS
    assert "Traceback" not in says
    assert "send them with `wandb sync" in says
    (found,) = offline_files(tmp_path / "run")
    assert [row["step"] for row in found.history] == list(range(1, 301))  # for a later `wandb sync`


@pytest.mark.parametrize("only_stop", [False, True])
def test_training_outlives_a_killed_or_frozen_wandb_process(only_stop: bool, tmp_path: Path):
    config = {"wandb": "offline", "finish_timeout_seconds": 4}
    order = {"last": 300, "kill_core_at": 100, "only_stop": only_stop}
    child = tracked(tmp_path, config=config, **order)
    assert_training_did_not_notice(child, tmp_path, 300)
    assert "metrics.jsonl has everything" in child.says
