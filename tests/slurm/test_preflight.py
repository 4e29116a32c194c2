"""Every planted fault is told in one line with the way out, and nothing is written or submitted."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster

from conf.exits import ConfigError
from data_prep.index import read_index
from slurm import preflight, room, submit


class Plan:
    """A command that is right until something is planted."""

    def __init__(self, directory: Path, index: Path, cluster: Cluster) -> None:
        self.directory, self.cluster = directory, cluster
        self.run_dir = directory / "a run"
        shutil.copytree(index.parent, directory / "data")
        self.settings = [
            "experiment=smoke",
            "cluster=test",
            f"run_dir='{self.run_dir}'",
            f"data.index='{directory}/data/index.json'",
            "batch.tokens=256",
        ]

    def plant(self, *settings: str) -> None:
        self.settings += settings

    def answer(self, program: str, text: str) -> None:
        """Have a program of the site answer so, instead of what is installed here."""
        path = self.directory / "bin" / program
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
        path.chmod(0o755)

    def dry_run(self) -> None:
        submit.main([*self.settings, "dry_run=true"])


def missing_shard(plan: Plan) -> None:
    (plan.directory / "data" / "train-00001.tar").unlink()


def cut_shard(plan: Plan) -> None:
    with (plan.directory / "data" / "train-00001.tar").open("r+b") as file:
        file.truncate(5000)


def wrong_hash(plan: Plan) -> None:
    path = plan.directory / "data" / "train-00000.tar"
    content = bytearray(path.read_bytes())
    for place in range(1000, len(content), 1000):  # in every block, as the hashes are of a sample
        content[place] ^= 1
    path.write_bytes(content)


def no_data(plan: Plan) -> None:
    shutil.rmtree(plan.directory / "data")


def no_space(plan: Plan) -> None:
    plan.plant("checkpoint.keep_every=1", "steps=10000000")  # each of 20 MB


def no_space_for_the_shards(plan: Plan) -> None:
    shutil.rmtree(plan.directory / "data")
    with (plan.directory / "corpus.txt").open("w") as file:
        file.truncate(1 << 42)
    plan.plant("prepare.corpus=text", f"prepare.corpus.paths=['{plan.directory}/corpus.txt']")


def no_quota(plan: Plan) -> None:
    # What quota(1) of Debian 12 says of a user who is above the soft limit.
    head = "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace"
    row = "          /home  990000*  900000  1000000   6days      9       0       0        "
    plan.answer("quota", f"Disk quotas for user me (uid 1000): \n{head}\n{row}\n")


def no_corpus(plan: Plan) -> None:
    plan.plant("prepare.corpus=text", f"prepare.corpus.paths=['{plan.directory}/nothing/*.txt']")


def unknown_partition(plan: Plan) -> None:
    plan.plant("cluster.slurm.train.partition=mian")


def too_many_gpus(plan: Plan) -> None:
    plan.plant("cluster.slurm.train.gpus_per_node=8")


def too_many_cpus(plan: Plan) -> None:
    plan.plant("cluster.slurm.train.cpus_per_rank=64")


def too_many_nodes(plan: Plan) -> None:
    plan.plant('cluster.slurm.train.nodes="8"', "batch.tokens=1024")


def time_below_the_save(plan: Plan) -> None:
    plan.plant('cluster.slurm.train.time="2"')


def lead_below_the_saves(plan: Plan) -> None:
    plan.plant(
        "model.layers=24", "model.channels=1024", "model.heads=16", "cluster.slurm.train.lead_seconds=20"
    )


def time_above_the_partition(plan: Plan) -> None:
    plan.plant("cluster.slurm.train.partition=short", 'cluster.slurm.train.time="2:00:00"')


def time_above_the_default_partition(plan: Plan) -> None:
    plan.plant("cluster.slurm.train.partition=null", 'cluster.slurm.train.time="3-00:00:00"')


def odd_batch(plan: Plan) -> None:
    plan.plant("batch.tokens=320")


def odd_batch_of_a_range(plan: Plan) -> None:
    plan.plant("cluster.slurm.train.nodes=1-3")


def unwritable(plan: Plan) -> None:
    plan.run_dir.write_text("a file")
    plan.plant(f"run_dir='{plan.run_dir}/run'")


def stop_file(plan: Plan) -> None:
    plan.run_dir.mkdir()
    (plan.run_dir / "STOP").touch()


def living_trainer(plan: Plan) -> None:
    plan.run_dir.mkdir()
    holder = {"pid": 1, "host": "n9", "job": "", "released": False}
    (plan.run_dir / ".lease.json").write_text(json.dumps(holder))


def twin(plan: Plan) -> None:
    job = plan.cluster.submit("--hold", "--output=/dev/null", "--wrap=true")
    (plan.run_dir / "slurm").mkdir(parents=True)
    (plan.run_dir / "slurm" / "jobs.json").write_text(json.dumps({"train": job}))


def no_account(plan: Plan) -> None:
    plan.plant("tracking=online")


def unknown_reference(plan: Plan) -> None:
    plan.plant("reference=gpt2")


PLANTED = {
    missing_shard: r"train-00001\.tar is missing.*copy it again",
    cut_shard: r"train-00001\.tar has 5000 of \d+ bytes; copy it again",
    wrong_hash: r"train-00000\.tar: member .* differs from the index.*copy the shard again",
    no_data: r"index\.json does not exist.*prepare\.corpus=",
    no_space: r"GB free, the checkpoints need .* GB; free space",
    no_space_for_the_shards: r"GB free, the spill files and shards and the checkpoints need 5,2.* GB; free",
    no_quota: r"your quota on .* leaves 10\.2 MB, the checkpoints need 58\.9 MB; ask for more",
    no_corpus: r"nothing/\*\.txt matches no file; name files that this machine",
    lead_below_the_saves: r"lead_seconds 20 may be too short: 2 saves of 4\.\d GB take 3\d s .* raise it",
    unknown_partition: r"partition mian is unknown; there are: high, low, main, short",
    too_many_gpus: r"gpus_per_node 8: the nodes of main have at most 2; lower it",
    too_many_cpus: r"need 128 on a node; those of main have 8, lower cpus_per_rank",
    too_many_nodes: r"nodes 8: 4 nodes of main are up; use fewer",
    time_below_the_save: r"time 2 is 120 s; .* use 180 s or more",
    time_above_the_partition: r"time 2:00:00 is above the limit of short, 30 minutes; lower it",
    time_above_the_default_partition: r"time 3-00:00:00 is above the limit of main, 1440 minutes; lower it",
    odd_batch: r"batch\.tokens 320 does not divide among 4 ranks .*; use 256 or 512",
    odd_batch_of_a_range: r"on 3 nodes: batch\.tokens 256 does not divide among 6 ranks",
    unwritable: r"a run cannot be written; choose another place",
    stop_file: r"STOP would stop the run at once; remove it",
    living_trainer: r"is in use by pid 1 on n9, job none; stop it or choose another run_dir",
    twin: r"job \d+ \(train, PENDING\) holds this run already; wait for it, or scancel \d+",
    no_account: r"W&B knows no account here; run `wandb login`, or use tracking=offline",
    unknown_reference: r"references has no option 'gpt2'; choose one of: demo, gpt2_124m_fineweb",
}


@pytest.fixture
def queue(running_cluster: Cluster) -> Iterator[Cluster]:
    """Lend the cluster, and take out of its queue what a test leaves there."""
    yield running_cluster
    for job in queued(running_cluster):
        running_cluster.ask("scancel", job)
    running_cluster.until(lambda: not queued(running_cluster), "the queue is empty")


def queued(cluster: Cluster) -> list[str]:
    """Return the jobs in the queue."""
    return sorted(cluster.ask("squeue", "--noheader", "--format=%A").split())


@pytest.fixture
def plan(tmp_path, tiny_index, queue, monkeypatch) -> Plan:
    monkeypatch.setenv("SLURM_CONF", queue.environment["SLURM_CONF"])
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{queue.environment['PATH']}")
    monkeypatch.setenv("NETRC", str(tmp_path / "no netrc"))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return Plan(tmp_path, tiny_index, queue)


def contents(directory: Path) -> dict[str, tuple[int, int]]:
    found = {path: path.stat() for path in directory.rglob("*")}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def test_a_sound_plan_is_printed_and_leaves_nothing(plan, queue, capsys):
    before, jobs = contents(plan.directory), queued(queue)
    plan.dry_run()
    printed = capsys.readouterr()
    assert "fault" not in printed.err
    assert "--signal=B:USR1@60" in printed.out
    assert "exec " in printed.out
    assert contents(plan.directory) == before
    assert queued(queue) == jobs


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_told_in_one_line_with_the_way_out(plan, queue, capsys, plant):
    plant(plan)
    before, jobs = contents(plan.directory), queued(queue)
    with pytest.raises(ConfigError, match="1 fault; nothing was written or submitted"):
        submit.main(plan.settings)
    told = [line for line in capsys.readouterr().err.splitlines() if "fault: " in line]
    assert len(told) == 1
    assert re.search(PLANTED[plant], told[0]), told[0]
    assert contents(plan.directory) == before
    assert queued(queue) == jobs


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("cluster.slurm.train.nodez=3", "nodez"),
        ("cluster.slurm.train.nodes=two", "no number and no range"),
        ("cluster.slurm.train.time=tomorrow", "is not a time"),
        ("cluster=nowhere", "cluster has no option 'nowhere'"),
        ("cluster=local", "cluster=local says nothing of SLURM; add cluster=slurm"),
        ("only=evaluate", "neither prepare nor train"),
        ("prepare.corpus=xml", "corpus has no option 'xml'"),
    ],
)
def test_a_setting_that_is_none_is_told_in_one_line(plan, setting, told):
    plan.plant(setting)
    with pytest.raises(ConfigError, match=told) as caught:
        plan.dry_run()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ("     /home  100*  150  200  -  1  0  0  -", 100 * 1024),
        ("/a/long/name/of/a/file/system\n   100  150  0  -  1  0  0  -", 50 * 1024),
        ("     /lustre  300*  100  200  -  1  0  0  -", 0),
        ("     /home  100  0  0  -  1  0  0  -", None),
        ("Disk quotas for user root (uid 0): none", None),
        ("", None),
    ],
)
def test_a_quota_leaves_what_its_limit_has_above_the_used(plan, answer, left):
    plan.answer("quota", f"{answer}\n")
    assert room.quota_left(plan.directory) == left


def test_where_no_program_knows_of_quotas_there_is_none(plan, monkeypatch):
    monkeypatch.setenv("PATH", str(plan.directory))
    assert room.quota_left(plan.directory) is None


def test_several_faults_are_told_at_once(plan, capsys):
    unknown_partition(plan)
    odd_batch(plan)
    with pytest.raises(ConfigError, match="2 faults"):
        plan.dry_run()
    assert len([line for line in capsys.readouterr().err.splitlines() if "fault: " in line]) == 2


def test_a_sample_as_large_as_the_data_set_is_every_block_of_it(
    tiny_index: Path, monkeypatch: pytest.MonkeyPatch
):
    index, read = read_index(tiny_index), []
    monkeypatch.setattr(preflight, "_SAMPLED_BLOCKS", 10**6)
    monkeypatch.setattr(preflight, "read_block", lambda _, shard, number: read.append((shard.name, number)))
    assert list(preflight._sampled_hashes(index)) == []
    shards = [shard for split in index.splits.values() for shard in split.shards]
    assert len(read) == sum(shard.block_count for shard in shards) > 20
    assert set(read) == {(shard.name, number) for shard in shards for number in range(shard.block_count)}
