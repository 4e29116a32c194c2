"""Runs that are hurt again and again, at random, until they end; and whether they end as if nobody had.

A chain is one run directory: attempt after attempt is started, and each meets one fault. The last is
left alone. What it leaves is compared with a run that nothing ever happened to: every loss, weight and
moment to the bit, and the ledger of what was consumed.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer_job import Job, losses, metric_rows, state_files

from conf.exits import Exit
from pretrain.storage import commit
from pretrain.stream.ledger import account, read

STEPS = 40
_IN_STARTUP = 0.2  # of the faults
_SECONDS_OF_STARTUP = 3.0
_MOST_STEPS_TO_LIVE = 6  # of an attempt, from where it went on
_SECONDS_OF_A_STEP = 0.1
_STOPPING = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
# Where a save can be hit, and by what; `stop` would hang the run until its watchdog's limit.
_POINTS = ("begin.made", "write.opened", "write.synced", "commit.manifest", "commit.renamed", "prune.renamed")
_POINTS += ("lines.write", "lines.sync")  # the ledger's
_REFUSALS = ("enospc", "eio", "edquot")


@dataclass(frozen=True)
class Configuration:
    """One way to train; `ranks` processes."""

    name: str
    settings: tuple[str, ...]
    ranks: int = 2

    def of(self, shards: Path, run_dir: Path) -> list[str]:
        """Return all settings of a run that does in 40 steps what others do in days, and no more."""
        return [*TINY, *self.settings, f"data.index={shards}", f"run_dir={run_dir}", f"steps={STEPS}"]


# The vocabulary is GPT-2's, so all else is small: a step takes hundredths of a second.
TINY = (
    *("experiment=smoke", "model.channels=8", "model.context=4", "data.sequence_tokens=4"),
    *("batch.tokens=16", "batch.micro_sequences=1", "model.dropout=0.1", "cluster.peak_tflops=1"),
    *("checkpoint.every=3", "validation.every=16", "validation.tokens=16", "validation.micro_sequences=2"),
)
CONFIGURATIONS = (
    Configuration("ZeRO-0 fp32", ("zero=stage0", "precision=fp32")),
    Configuration("ZeRO-1 autocast", ("zero=stage1", "precision=autocast")),
    Configuration("ZeRO-2 bf16", ("zero=stage2", "precision=bf16")),
    Configuration("ZeRO-3 fp32, read ahead 1", ("zero=stage3", "precision=fp32", "data.prefetch_batches=1")),
    Configuration("ZeRO-3 bf16", ("zero=stage3", "precision=bf16")),
    Configuration("ZeRO-1 fp32, no accumulation", ("zero=stage1", "batch.micro_sequences=2")),
)


@dataclass
class Tally:
    """What chains have met and how they ended."""

    faults: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    chains: int = 0
    bit_equal: int = 0
    lost: int = 0
    duplicated: int = 0
    retaken_steps: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return it as one line."""
        met = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{sum(self.faults.values())} faults ({met}) in {self.attempts} attempts of {self.chains} runs; "
            f"{self.bit_equal} bit-equal, {self.lost} sequences lost, {self.duplicated} duplicated, "
            f"{self.retaken_steps} steps taken again; {len(self.wrong)} wrong"
        )


def straight(configuration: Configuration, shards: Path, directory: Path) -> Path:
    """Train without a fault; return the run directory."""
    run_dir = directory / "straight"
    Job(directory, *configuration.of(shards, run_dir), ranks=configuration.ranks).succeeded()
    return run_dir


class Chain:
    """One run that is hurt."""

    def __init__(self, configuration: Configuration, shards: Path, directory: Path, seed: str) -> None:
        """Take the place for its logs and its run directory, and the `seed` of all that will befall it."""
        self._configuration = configuration
        self._run_dir = directory / "run"
        self._settings = configuration.of(shards, self._run_dir)
        self._directory = directory
        self._random = random.Random(seed)
        self._had_begun = False  # the attempt that the disk refused something

    def live(self, kinds: Sequence[str], most_faults: int, tally: Tally, twin: Path) -> None:
        """Meet up to `most_faults` faults of `kinds`, run to the end, and compare with the `twin`."""
        before = len(tally.wrong)
        for _ in range(most_faults):
            kind = self._random.choice(kinds)
            tally.attempts += 1
            met, codes = getattr(self, f"_{kind}")()
            if met:
                tally.faults[kind] += 1
            if codes == [0] * len(codes):
                break
            self._judge(kind, codes, tally)
        else:
            tally.attempts += 1
            job = self._job()
            if any(job.wait()):
                tally.wrong.append(f"an undisturbed attempt failed: {job.output()[-1500:]}")
        tally.chains += 1
        tally.wrong += self._differences(twin, tally)
        if len(tally.wrong) == before:
            shutil.rmtree(self._directory)

    def _job(self, **environment: str) -> Job:
        return Job(self._directory, *self._settings, ranks=self._configuration.ranks, **environment)

    def _lives_until_a_random_instant(self, job: Job, in_startup: bool) -> bool:
        """Let a job go on for a while; say whether it is still there."""
        if in_startup:
            there = job.reaches(lambda: len(job.trainers()) == len(job.processes))
            time.sleep(self._random.random() * _SECONDS_OF_STARTUP)
            return there and job.running()
        steps, began = self._random.randrange(_MOST_STEPS_TO_LIVE), len(metric_rows(self._run_dir))
        there = job.reaches(lambda: len(metric_rows(self._run_dir)) > began + steps)
        time.sleep(self._random.random() * _SECONDS_OF_A_STEP)
        return there

    def _kill(self) -> tuple[bool, list[int]]:
        """SIGKILL all ranks, one that trains, or the watchdog of one, at a random instant.

        Ranks that have not met yet cannot miss one another: ending the others is their launcher's business.
        """
        job = self._job()
        in_startup = self._random.random() < _IN_STARTUP
        there = self._lives_until_a_random_instant(job, in_startup)
        aim = "all" if in_startup else self._random.choice(("all", "a trainer", "a watchdog"))
        if aim == "all":
            return there, job.kill()
        trainers = job.trainers()
        if aim == "a trainer" and trainers:
            self._random.choice(trainers).kill()
        elif there:
            self._random.choice(job.processes).kill()
        codes = job.wait()
        job.kill()  # nobody is left but, for an instant, what a dead parent takes along
        return there, codes

    def _stop(self) -> tuple[bool, list[int]]:
        """Ask one rank or all to stop."""
        job = self._job()
        there = self._lives_until_a_random_instant(job, self._random.random() < _IN_STARTUP)
        number = self._random.choice(_STOPPING)
        for process in job.processes if self._random.random() < 0.5 else [self._random.choice(job.processes)]:
            process.send_signal(number)
        return there, job.wait()

    def _disk(self) -> tuple[bool, list[int]]:
        """Have the disk refuse a part of a save, on one rank."""
        return self._at_a_point(self._random.choice(_REFUSALS))

    def _point(self) -> tuple[bool, list[int]]:
        """SIGKILL a rank in the middle of a save."""
        return self._at_a_point("kill")

    def _at_a_point(self, action: str) -> tuple[bool, list[int]]:
        rank = self._random.randrange(self._configuration.ranks)
        points = _POINTS if rank == 0 else _POINTS[1:3]
        fault = f"{self._random.choice(points)}:{action}@{self._random.randint(1, 3)}#{rank}"
        job = self._job(FAULTS=fault)
        codes = job.wait()
        said = job.output()
        self._had_begun = "begins:" in said or "resumed at" in said  # before, it may refuse the lease
        return f"faults: FAULTS={fault.partition('#')[0]}" in job.output(rank), codes

    def _tear(self) -> tuple[bool, list[int]]:
        """Stop a run by force and damage a file of its newest checkpoint, where an older one is left."""
        there, codes = self._kill()
        saved = commit.checkpoints(self._run_dir / "checkpoints")
        if len(saved) < 2 or not any(codes):  # or it had ended, and nobody will read its state again
            return False, codes
        file = self._random.choice([path for path in saved[0].iterdir() if path.is_file()])
        with file.open("r+b") as opened:
            size = os.fstat(opened.fileno()).st_size
            place = self._random.randrange(size)
            if self._random.random() < 0.5:
                opened.truncate(place)
            else:
                opened.seek(place)
                byte = opened.read(1)[0]
                opened.seek(place)
                opened.write(bytes([byte ^ 1 << self._random.randrange(8)]))
        return there, codes

    def _judge(self, kind: str, codes: list[int], tally: Tally) -> None:
        """Hold the exit codes against what happened: a stop that was heard is agreed on by all."""
        if kind == "stop" and Exit.REQUEUE in codes and set(codes) != {Exit.REQUEUE}:
            tally.wrong.append(f"{self._directory}: asked to stop, the ranks left with {codes}")
        if kind == "disk" and Exit.DISK in codes and self._had_begun:
            tally.wrong.append(f"{self._directory}: one refusal of the disk ended the run")
        if any(code in (Exit.CONFIG, Exit.DATASET, Exit.NO_CHECKPOINT, Exit.LEASE_HELD) for code in codes):
            tally.wrong.append(f"{self._directory}: after {kind} the ranks left with {codes}")

    def _differences(self, twin: Path, tally: Tally) -> list[str]:
        """Return where this run and its twin differ."""
        proof = account(read(self._run_dir))
        tally.lost += proof.lost
        tally.duplicated += proof.duplicated
        tally.retaken_steps += proof.retaken_steps
        wrong = []
        if proof.lost or proof.duplicated or proof.changed_steps or proof.steps != STEPS:
            wrong.append(f"the ledger says {proof}")
        if losses(self._run_dir) != losses(twin):
            wrong.append("the losses differ")
        if not state_files(twin, STEPS) or state_files(self._run_dir, STEPS) != state_files(twin, STEPS):
            wrong.append("the weights or the moments differ")
        tally.bit_equal += not wrong
        return [f"{self._directory}: {each}" for each in wrong]
