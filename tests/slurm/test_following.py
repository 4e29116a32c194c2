"""What `--watch` says of a job that waits."""

import pytest
from slurm_cluster import Cluster

from slurm import scheduler
from slurm.watch import described

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_of_a_job_that_waits_it_says_what_for_and_of_a_held_one_how_to_let_it_go(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environment[name])
    job = cluster.submit("--hold", "--output=/dev/null", "--wrap=sleep 1")
    assert described(job, scheduler.job_state(job)) == (
        f"PENDING (JobHeldUser); scontrol release {job} lets it go on"
    )
    later = cluster.submit(f"--dependency=afterany:{job}", "--output=/dev/null", "--wrap=sleep 0")
    cluster.until(lambda: described(later, scheduler.job_state(later)) == "PENDING (Dependency)", "it waits")
    cluster.ask("scontrol", "release", job)
    cluster.ended(job)
    assert "PENDING" not in described(job, scheduler.job_state(job))
    cluster.ended(later)
