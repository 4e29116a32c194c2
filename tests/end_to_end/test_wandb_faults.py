"""Whatever happens to W&B, a real run takes the same steps to the bit, and leaves on time."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from trainer_job import PLANTED, Job, losses, metric_rows, smoke

from pretrain.guard import attempts

pytestmark = pytest.mark.soak

WATCHING = Path(__file__).parents[1] / "pretrain" / "watching"
STEPS = 20
LONGEST_EXIT_SECONDS = 10.0
TINY = ("model.heads=1", "model.channels=8", "data.sequence_tokens=32", "validation.tokens=512")

# What the service does, from the beginning
FAULTS: dict[str, Callable[[Any], Any]] = {
    "is healthy": lambda service: None,
    "refuses connections": lambda service: service.kill(),
    "refuses the key": lambda service: service.status_for.update({"*": 401}),
    "answers 500": lambda service: service.status_for.update({"*": 500}),
    "hangs": lambda service: service.delay_for.update({"*": 60.0}),
    "is slow": lambda service: service.delay_for.update({"*": 0.7}),
    "takes no rows": lambda service: service.status_for.update({"file_stream": 500}),
    "holds rows back": lambda service: service.delay_for.update({"file_stream": 60.0}),
    "reports a conflict": lambda service: service.status_for.update({"file_stream": 409}),
    "loses its client": lambda service: None,  # its process on our side is killed
    "finds no room on the disk": lambda service: (
        None
    ),  # where its client keeps rows, in the middle of the run
}
ON_A_SMALL_DISK = {"finds no room on the disk"}


@pytest.fixture(scope="module")
def untracked(shards, tmp_path_factory) -> dict[int, float]:
    """Return the losses of the run that knows no W&B."""
    folder = tmp_path_factory.mktemp("untracked")
    order = smoke(shards, folder / "run", *TINY, "batch.tokens=128", f"steps={STEPS}", "tracking=disabled")
    Job(folder, *order, ranks=1).succeeded()
    return losses(folder / "run")


def kill_wandb_core(job: Job, run_dir: Path) -> None:
    while not metric_rows(run_dir):
        assert job.running(), job.output()
        time.sleep(0.05)
    while not (found := _services(job)):
        assert job.running(), "the run ended before W&B had started: nothing was tried"
        time.sleep(0.05)
    for process in found:
        process.send_signal(signal.SIGKILL)


def fill_disk(job: Job, run_dir: Path) -> None:
    """Leave no room on the small disk of W&B's directory as soon as its file is there."""
    while not job.trainers():
        assert job.running(), job.output()
    seen_by_trainer = Path(f"/proc/{job.trainers()[0].pid}/root{run_dir.resolve()}/wandb")
    while not list(seen_by_trainer.glob("run-*/run-*.wandb")):
        assert job.running(), "the run ended before W&B had started: nothing was tried"
        time.sleep(0.01)
    filler = os.open(seen_by_trainer / "filler", os.O_WRONLY | os.O_CREAT)
    with suppress(OSError):
        while os.write(filler, bytes(512)):
            pass
    assert os.fstatvfs(filler).f_bavail == 0
    os.close(filler)


def _services(job: Job) -> list[psutil.Process]:
    below = psutil.Process(job.processes[0].pid).children(recursive=True)
    return [process for process in below if process.name() == "wandb-core"]


@pytest.mark.usefixtures("no_wandb_settings")
@pytest.mark.parametrize("fault", FAULTS)
def test_the_losses_are_those_of_a_run_without_wandb_when_the_service(
    fault: str, shards, tmp_path: Path, untracked, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(WATCHING)
    from local_wandb import LocalWandb

    run_dir = tmp_path / "run"
    limits = ["tracking.init_timeout_seconds=3", "tracking.finish_timeout_seconds=6"]
    order = smoke(shards, run_dir, *TINY, "batch.tokens=128", f"steps={STEPS}", "tracking=auto", *limits)
    service = LocalWandb()
    with service if fault != "refuses connections" else nullcontext():
        if fault == "refuses connections":
            service._server.server_close()
        else:
            FAULTS[fault](service)
        program = {"program": PLANTED, "PLANT": "small-disk@512"} if fault in ON_A_SMALL_DISK else {}
        job = Job(tmp_path, *order, ranks=1, NETRC=os.devnull, **program, **service.environment)
        if fault == "loses its client":
            kill_wandb_core(job, run_dir)
        elif fault in ON_A_SMALL_DISK:
            fill_disk(job, run_dir)
        assert job.wait() == [0], job.output()
        service.delay_for.clear()
    assert losses(run_dir) == untracked
    assert "Traceback" not in job.output(), job.output()
    seconds = seconds_to_leave(run_dir)
    print(f"{fault}: left {seconds:.1f} s after training was done")
    assert seconds < LONGEST_EXIT_SECONDS


def seconds_to_leave(run_dir: Path) -> float:
    """Return the time from when the tracker was told the end until the process had gone."""
    told = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()][-1]
    assert told["event"] == "finished"
    return attempts.read(run_dir)[-1]["time"] - told["time"]
