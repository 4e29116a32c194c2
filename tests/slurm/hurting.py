"""A chain of jobs on the test cluster, the faults that it meets, and the machines that come back."""

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from slurm_cluster import ENDED, Cluster

from slurm.standing import newest_step

STEPS = 100


@dataclass
class Tally:
    """What has happened in all chains."""

    chains: int = 0
    starts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    helped: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {name}" for name, count in self.faults.most_common())
        helped = ", ".join(f"{count} × {name}" for name, count in self.helped.most_common())
        return (
            f"{self.chains} chains hurt, {self.faults.total()} faults ({faults}), {self.starts} starts of "
            f"trainings; an administrator was needed: {helped or 'never'}; wrong: {len(self.wrong)}"
        )


class Nature:
    """Puts right after a while what a fault has broken; acts as the administrator when nothing else can."""

    def __init__(self, cluster: Cluster, tally: Tally) -> None:
        self._cluster, self._tally = cluster, tally
        self._due: list[tuple[float, tuple[str, ...]]] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def later(self, seconds: float, *control: str) -> None:
        """Run tests/slurm/cluster with these words in so many seconds."""
        self._due.append((time.monotonic() + seconds, control))

    def away(self) -> set[str]:
        """Return what is off or cut now."""
        return {words[1] for _, words in self._due}

    def close(self) -> None:
        """Put everything right and end."""
        self._closing.set()
        self._thread.join()
        for _, control in self._due:
            self._cluster.control(*control)

    def _live(self) -> None:
        while not self._closing.wait(0.5):
            for each in [each for each in self._due if each[0] < time.monotonic()]:
                self._cluster.control(*each[1])
                self._due.remove(each)
            if "ctl" in self.away():
                continue
            for node in _lines(self._cluster, "sinfo", "-h", "-N", "--states=drained", "--format=%N"):
                self._cluster.tried("scontrol", "update", f"NodeName={node}", "State=RESUME")
                self._tally.helped["drained node"] += 1
            for line in _lines(self._cluster, "squeue", "-h", "-t", "PENDING", "--format=%A|%r"):
                job, _, reason = line.partition("|")
                if "held" in reason.lower():
                    self._cluster.tried("scontrol", "release", job)
                    self._tally.helped[reason] += 1


class Chain:
    """One submission, and what is done to it."""

    def __init__(self, cluster: Cluster, texts: Path, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory
        command = [sys.executable, "-m", "slurm.submit", "experiment=smoke", "cluster=test"]
        command += [f"run_dir='{directory}'", "prepare.corpus=text", f"prepare.corpus.paths=['{texts}']"]
        command += ["prepare.packing.block_tokens=4096", f"steps={STEPS}", "checkpoint.every=5"]
        command += ["validation.every=0", "batch.tokens=256", "model.dropout=0.1"]
        command += ["cluster.slurm.train.partition=low", "cluster.slurm.train.ranks_per_node=1"]
        done = cluster.tried(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        self.ids: dict[str, str] = json.loads((directory / "slurm" / "jobs.json").read_text())

    def states(self) -> dict[str, list[str]]:
        """Return the states of each job, one for each task; none where the controller is away."""
        found: dict[str, list[str]] = {}
        for name, job in self.ids.items():
            form = ("squeue", "-h", "--array", f"--jobs={job}", "--states=all", "--format=%T")
            found[name] = _lines(self.cluster, *form)
        return found

    def running(self) -> str:
        """Return which job runs, "" if none does."""
        return next((name for name, states in self.states().items() if "RUNNING" in states), "")

    def ended(self) -> bool:
        """Say whether every job has ended."""
        states = self.states()
        return all(states.values()) and all(state in ENDED for each in states.values() for state in each)

    def nodes(self, name: str) -> list[str]:
        """Return the nodes on which a job runs."""
        names = _lines(self.cluster, "squeue", "-h", f"--jobs={self.ids[name]}", "-t", "R", "--format=%N")
        return [
            node for each in names for node in _lines(self.cluster, "scontrol", "show", "hostnames", each)
        ]

    def ranks(self) -> list[psutil.Process]:
        """Return the processes that train."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if "pretrain.train" in words and f"run_dir={self.directory}" in " ".join(words).replace("'", ""):
                found.append(process)
        return found

    def words(self) -> str:
        """Return the ends of all that the jobs have written."""
        logs = sorted((self.directory / "slurm" / "logs").glob("*"))
        return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-2000:]}" for path in logs)


class Hurt:
    """The faults, drawn at random."""

    def __init__(self, chain: Chain, nature: Nature, chance: random.Random) -> None:
        self._chain, self._nature, self._chance = chain, nature, chance
        self._cluster = chain.cluster
        self._killed_at = -1

    def once(self) -> str:
        """Do something to what runs now; return its name, "" if there was nothing to hurt."""
        name = self._chain.running()
        if not name:
            return ""
        kinds: list[Callable[[str], str]] = [self._power, self._cable, self._controller]
        if name == "train":
            kinds += [self._requeue, self._signal, self._preempt, self._rank]
        return self._chance.choice(kinds)(name)

    def _node(self, name: str) -> str:
        """Return a node of the job to hurt; two at a time are enough, for training needs two."""
        nodes = [node for node in self._chain.nodes(name) if node not in self._nature.away()]
        return self._chance.choice(nodes) if nodes and len(self._nature.away()) < 2 else ""

    def _power(self, name: str) -> str:
        if not (node := self._node(name)):
            return ""
        self._cluster.control("off", node)
        self._nature.later(self._chance.uniform(2, 30), "on", node)
        return f"power-off while {name}"

    def _cable(self, name: str) -> str:
        if not (node := self._node(name)):
            return ""
        self._cluster.control("cut", node)
        self._nature.later(self._chance.uniform(2, 60), "heal", node)
        return f"cable pulled while {name}"

    def _controller(self, name: str) -> str:
        if "ctl" in self._nature.away():
            return ""
        self._cluster.control("off", "ctl")
        self._nature.later(self._chance.uniform(1, 12), "on", "ctl")
        return f"controller off while {name}"

    def _requeue(self, name: str) -> str:
        done = self._cluster.tried("scontrol", "requeue", self._chain.ids[name])
        return "scontrol requeue" if done.returncode == 0 else ""

    def _signal(self, name: str) -> str:
        done = self._cluster.tried("scancel", "--batch", "--signal=USR1", self._chain.ids[name])
        return "signal before the time limit" if done.returncode == 0 else ""

    def _preempt(self, _: str) -> str:
        urgent = ("--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=srun sleep 1")
        return "preempted" if self._cluster.tried("sbatch", *urgent).returncode == 0 else ""

    def _rank(self, _: str) -> str:
        """Kill a rank, once at a checkpoint: three crashes that come no further end a job, as they should."""
        newest, ranks = newest_step(self._chain.directory), self._chain.ranks()
        if newest == self._killed_at or not ranks:
            return ""
        self._killed_at = newest
        self._chance.choice(ranks).kill()
        return "rank killed"


def _lines(cluster: Cluster, *command: str) -> list[str]:
    done = cluster.tried(*command)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []
