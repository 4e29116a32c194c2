"""What would go wrong with a run before it is submitted: each fault in one line, with the way out.

Nothing here writes or submits anything. A check that needs an answer of SLURM's asks for it once.
"""

import bisect
import itertools
import json
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from conf.exits import CorruptError, DatasetError, UserError
from data_prep.index import INDEX, Index
from data_prep.prepare import PrepareConfig
from data_prep.shards import read_block
from data_prep.sources import list_inputs
from data_prep.space import predicted_bytes
from data_prep.units import expected_text_bytes
from pretrain.batch import plan_batch
from pretrain.config import TrainConfig
from pretrain.storage.lease import LEASE_NAME, STALE_SECONDS
from pretrain.stream.sources import index_at
from pretrain.watching import reference
from slurm import room, scheduler, stop_file
from slurm.room import Need, existing
from slurm.scheduler import Partition
from slurm.site import PrepareJob, Site, TrainJob
from slurm.standing import ended_early, is_done, newest_step
from slurm.submission import Submission

_SAMPLED_BLOCKS = 16  # of a data set: a whole one takes hours to hash
_SEED = 20
# SLURM looks at time limits every 30 s, and may send its signal a minute early.
_SIGNAL_EARLY_SECONDS = 60
_WORK_SECONDS = 60  # that must be left of a job to start up and to train in
# A file server behind 10 Gbit/s that others use too; parallel file systems take ten times as much.
_SLOW_DISK_BYTES_PER_SECOND = 0.25e9
_SAVES = 2  # that the signal leaves time for: the one under way, and the last
_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


def faults(submission: Submission) -> Iterator[str]:
    """Yield all that would go wrong."""
    request, job = submission.request, submission.request.site.train
    yield from twin_faults(request.directory)
    yield from cluster_faults(request.site, trains=bool(submission.runs), prepares=request.output is not None)
    yield from folder_faults(request.run_dir or request.directory)
    needs = []
    if request.output is not None and submission.corpus is not None:
        yield from folder_faults(request.output)
        yield from corpus_faults(submission.corpus)
        needs += _data_needs(request.output, submission.corpus)
    told: set[str] = set()  # what several runs of a sweep have in common is told once
    for run in submission.runs:
        needs.append(room.checkpoints_need(run.config))
        found = [*place_faults(run.directory, run.raw), *batch_faults(run.config, job)]
        found += [*time_faults(run.config, job), *tracking_faults(run.config), *reference_faults(run.config)]
        yield from dict.fromkeys(each for each in found if each not in told)
        told.update(found)
    indexes = [
        (index, run.config.model.vocabulary) for run in submission.runs for index in run.config.data.indices
    ]
    for index, vocabulary in dict.fromkeys(indexes) if request.output is None else ():
        yield from data_faults(index, vocabulary)
    yield from room.faults(needs)


def folder_faults(directory: Path) -> Iterator[str]:
    """Tell whether a directory can be written, or made."""
    found = existing(directory)
    if not found.is_dir() or not os.access(found, os.W_OK | os.X_OK) or _is_read_only(found):
        yield f"{found} cannot be written; choose another place than {directory}"


def place_faults(directory: Path, settings: DictConfig | None = None) -> Iterator[str]:
    """Tell whether a run directory is not in use or, by the settings it is to have, finished."""
    if stop_file.is_users(directory):
        yield f"{directory / stop_file.NAME} would stop the run at once; remove it"
    if ended_early(directory, settings):
        step = newest_step(directory)
        yield (
            f"{directory} has ended early at step {step}, by validation.patience; nothing to submit, "
            "give more patience or choose another run_dir"
        )
    elif is_done(directory, settings):
        yield f"{directory} has trained all its steps; nothing to submit, choose another run_dir"
    lease = directory / LEASE_NAME
    if lease.exists() and time.time() - lease.stat().st_mtime < STALE_SECONDS:
        holder = json.loads(lease.read_text())
        if not holder["released"]:
            who = f"pid {holder['pid']} on {holder['host']}, job {holder['job'] or 'none'}"
            yield f"{directory} is in use by {who}; stop it or choose another run_dir"


def twin_faults(directory: Path) -> Iterator[str]:
    """Tell whether jobs of this very run are in the queue already."""
    path = directory / "jobs.json"
    for name, job in json.loads(path.read_text()).items() if path.exists() else ():
        state = scheduler.job_state(job)
        if state in scheduler.ALIVE:
            yield f"job {job} ({name}, {state}) holds this run already; wait for it, or scancel {job}"


def data_faults(index_path: str, vocabulary: int) -> Iterator[str]:
    """Tell whether the data set is whole, as far as its sizes and a sample of its hashes tell."""
    try:
        index = index_at(index_path)
    except DatasetError as error:
        yield f"{error}; or let the jobs prepare it: prepare.corpus=… prepare.corpus.paths=[…]"
        return
    if index.end_of_text >= vocabulary:
        yield f"{index_path} holds tokens up to {index.end_of_text}; raise model.vocabulary from {vocabulary}"
    if "://" in index.location:
        return  # the index is there; each block is checked as it is read
    shards = [shard for split in index.splits.values() for shard in split.shards]
    sound = True
    for shard in shards:
        path = index.directory / shard.name
        if not path.exists():
            sound = False
            yield f"{path} is missing, though the index lists it; copy it again"
        elif path.stat().st_size != shard.bytes:
            sound = False
            yield f"{path} has {path.stat().st_size} of {shard.bytes} bytes; copy it again"
    if sound:
        yield from _sampled_hashes(index)


def corpus_faults(corpus: PrepareConfig) -> Iterator[str]:
    """Tell whether the files of the corpus are there."""
    try:
        list_inputs(corpus.corpus)
    except UserError as error:
        yield f"{error}; name files that this machine and the prepare jobs can read"


def batch_faults(config: TrainConfig, job: TrainJob) -> Iterator[str]:
    """Tell whether the global batch can be cut for every number of nodes that the job may get."""
    for nodes in range(job.fewest_nodes, job.most_nodes + 1):
        try:
            plan_batch(
                config.batch, sequence_tokens=config.data.sequence_tokens, ranks=nodes * job.ranks_per_node
            )
        except ValueError as error:
            yield f"on {nodes} nodes: {error}, or another cluster.slurm.train.nodes"
            return


def time_faults(config: TrainConfig, job: TrainJob) -> Iterator[str]:
    """Tell whether the time limit leaves time to train and to save."""
    limit = scheduler.seconds(job.time)
    least = job.lead_seconds + _SIGNAL_EARLY_SECONDS + _WORK_SECONDS
    size = room.checkpoint_bytes(config)
    saves = _SAVES * size / _SLOW_DISK_BYTES_PER_SECOND
    if saves > job.lead_seconds:
        yield (
            f"cluster.slurm.train.lead_seconds {job.lead_seconds} may be too short: {_SAVES} saves of "
            f"{room.readable(size)} take {saves:.0f} s on a slow disk; raise it to {math.ceil(saves)}"
        )
    elif limit < least:
        yield (
            f"cluster.slurm.train.time {job.time} is {limit:.0f} s; the signal {job.lead_seconds} s before "
            f"its end leaves no time to train, use {least} s or more, or a smaller lead_seconds"
        )


def tracking_faults(config: TrainConfig) -> Iterator[str]:
    """Tell whether the metrics can reach the service that they must reach."""
    if config.tracking.wandb == "online" and not any(os.environ.get(key) for key in _KEYS):
        netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        if not netrc.exists() or "wandb" not in netrc.read_text():
            yield "tracking=online, but W&B knows no account here; run `wandb login`, or use tracking=offline"


def reference_faults(config: TrainConfig) -> Iterator[str]:
    """Tell whether the published run that it is to be measured against is known."""
    try:
        _ = config.reference and reference.named(config.reference)
    except UserError as error:
        yield f"reference: {error}"


def cluster_faults(site: Site, *, trains: bool, prepares: bool) -> Iterator[str]:
    """Tell whether the cluster has what the jobs ask for."""
    try:
        known = {each.name: each for each in scheduler.partitions()}
    except OSError as error:
        yield f"{error}; is this a login node of the cluster?"
        return
    default = next((each.name for each in known.values() if each.is_default), None)
    asked: list[tuple[str, TrainJob | PrepareJob]] = [("train", site.train)] if trains else []
    asked += [("prepare", site.prepare)] if prepares else []
    for name, job in asked:
        if any(option.startswith(("--partition", "-p")) for option in job.sbatch):
            continue  # sbatch's own argument overrules both, and may be a list
        wanted = job.partition or default
        partition = known.get(wanted or "")
        if partition is None:
            text = f"{wanted} is unknown" if wanted else "is null, and the cluster has no default"
            yield f"cluster.slurm.{name}.partition {text}; there are: {', '.join(sorted(known))}"
            continue
        if isinstance(job, TrainJob):
            yield from _node_faults(job, partition)
        if not partition.is_up:
            yield f"partition {wanted} is not up; use another: {', '.join(sorted(known))}"
        elif scheduler.seconds(job.time) > partition.time_limit_seconds:
            most = f"{partition.time_limit_seconds / 60:.0f} minutes"
            yield f"cluster.slurm.{name}.time {job.time} is above the limit of {wanted}, {most}; lower it"


def _node_faults(job: TrainJob, partition: Partition) -> Iterator[str]:
    name = partition.name
    if job.gpus_per_node > partition.most_gpus:
        yield (
            f"cluster.slurm.train.gpus_per_node {job.gpus_per_node}: the nodes of {name} have at most "
            f"{partition.most_gpus}; lower it, or use another partition"
        )
    if job.gpus_per_node and job.ranks_per_node > job.gpus_per_node:
        yield (
            f"cluster.slurm.train.ranks_per_node {job.ranks_per_node} is more than gpus_per_node "
            f"{job.gpus_per_node}; every rank needs a GPU of its own"
        )
    cpus = job.ranks_per_node * job.cpus_per_rank
    if cpus > partition.most_cpus:
        yield (
            f"cluster.slurm.train: {job.ranks_per_node} ranks of {job.cpus_per_rank} CPUs need {cpus} on a "
            f"node; those of {name} have {partition.most_cpus}, lower cpus_per_rank"
        )
    if job.fewest_nodes > partition.nodes:
        yield (
            f"cluster.slurm.train.nodes {job.nodes}: {partition.nodes} nodes of {name} are up; use fewer, "
            "or a range such as 1-2"
        )


def _data_needs(output: Path, prepare: PrepareConfig) -> list[Need]:
    """Return what the spill files and the shards will take, unless the corpus is prepared or not there."""
    if (output / INDEX).exists():
        return []
    try:
        text_bytes = expected_text_bytes(list_inputs(prepare.corpus), prepare.corpus)
    except UserError:  # told by corpus_faults
        return []
    size = 2 * predicted_bytes(text_bytes)
    return [Need(output, size, "the spill files and shards", "choose another prepare.output")]


def _sampled_hashes(index: Index) -> Iterator[str]:
    """Read some blocks from all over the data set and compare them with the index."""
    shards = [shard for split in index.splits.values() for shard in split.shards]
    ends = list(itertools.accumulate(shard.block_count for shard in shards))
    blocks = range(ends[-1] if ends else 0)
    for block in random.Random(_SEED).sample(blocks, min(_SAMPLED_BLOCKS, len(blocks))):
        place = bisect.bisect_right(ends, block)
        shard = shards[place]
        try:
            read_block(index.directory, shard, block - ends[place] + shard.block_count)
        except (CorruptError, DatasetError, OSError) as error:
            yield str(error)
            return


def _is_read_only(path: Path) -> bool:
    """Root may write anywhere, but not on a file system that is mounted read-only."""
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
