"""What a job asks of its partition is held against what sinfo tells of it, the default one's too."""

from pathlib import Path
from typing import Any

import pytest

from slurm.preflight import cluster_faults
from slurm.site import PrepareJob, Site, TrainJob

# sinfo --noheader --format='%P|%a|%l|%N|%G|%c|%T|%D' of SLURM 22.05
TOLD = """\
main*|up|1-00:00:00|n[1-3]|gpu:2|8|idle|3
main*|up|1-00:00:00|n4|gpu:2|8|down*|1
short|up|30:00|n[1-4]|gpu:2|8|idle|4
closed|down|infinite|n[1-4]|gpu:2|8|idle|4
"""


@pytest.fixture
def sinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a cluster of a default and two other partitions answer."""
    path = tmp_path / "sinfo"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{TOLD}END\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return path


def told(train: TrainJob, prepare: PrepareJob | None = None) -> list[str]:
    site = Site(train=train, prepare=prepare or PrepareJob())
    return list(cluster_faults(site, trains=True, prepares=prepare is not None))


SMALL: dict[str, Any] = {"ranks_per_node": 2, "gpus_per_node": 2}


@pytest.mark.usefixtures("sinfo")
@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, ""),
        ({"time": "1-00:00:01"}, "train.time 1-00:00:01 is above the limit of main, 1440 minutes"),
        ({"partition": "short", "time": "31"}, "train.time 31 is above the limit of short, 30 minutes"),
        ({"gpus_per_node": 4}, "the nodes of main have at most 2"),
        ({"nodes": "4"}, "3 nodes of main are up"),
        ({"partition": "closed"}, "partition closed is not up"),
        ({"partition": "mian"}, "partition mian is unknown; there are: closed, main, short"),
        ({"sbatch": ["--partition=main,short"], "time": "9-0"}, ""),  # not ours to judge
    ],
)
def test_a_job_is_held_against_the_partition_that_it_will_get(settings, fault):
    found = told(TrainJob(**{**SMALL, **settings}))
    assert len(found) == bool(fault)
    assert fault in "".join(found)


@pytest.mark.usefixtures("sinfo")
def test_a_prepare_job_is_held_against_the_default_partition_too():
    assert told(TrainJob(**SMALL), PrepareJob(time="2-0")) == [
        "cluster.slurm.prepare.time 2-0 is above the limit of main, 1440 minutes; lower it"
    ]


def test_a_cluster_without_a_default_partition_wants_one_named(sinfo: Path):
    sinfo.write_text(sinfo.read_text().replace("main*", "main"))
    (fault,) = told(TrainJob(**SMALL))
    assert fault.endswith("partition is null, and the cluster has no default; there are: closed, main, short")
