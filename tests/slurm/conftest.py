"""One real SLURM for the tests of this folder; without root or SLURM they are skipped, with the reason."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, why_not
from training import Training, read


@pytest.fixture(scope="session")
def running_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start a cluster, for all tests of the session."""
    if reason := why_not():
        pytest.skip(f"no test cluster: {reason}")
    cluster = Cluster(tmp_path_factory.mktemp("slurm") / "cluster", os.getpid() % 250)
    began = time.monotonic()
    cluster.control("up")
    print(f"test cluster: {time.monotonic() - began:.1f} s until four nodes are idle")
    yield cluster
    cluster.control("down")


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """Lend the cluster to one test; whatever it breaks is mended after it."""
    yield running_cluster
    running_cluster.mend()


@pytest.fixture
def training(cluster: Cluster, tiny_index: Path, tmp_path: Path) -> Training:
    """Return a run that is not submitted yet. The space in its path is meant."""
    return Training(cluster, tiny_index, tmp_path / "a run")


@pytest.fixture(scope="session")
def straight(running_cluster: Cluster, tiny_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that nothing has disturbed."""
    run = Training(running_cluster, tiny_index, tmp_path_factory.mktemp("straight") / "run")
    run.submit()
    run.is_done()
    assert [
        line["decision"] for line in read(run.directory / "attempts.jsonl") if line["event"] == "outcome"
    ] == ["done"]
    return run.directory
