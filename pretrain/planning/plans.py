"""How a run would go on a number of ranks: whether it fits, what would make it fit, how long it takes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pretrain.batch import BatchPlan, plan_batch
from pretrain.planning.endurance import Endurance, endurance
from pretrain.planning.memory import RECOMPUTE, Sharding, Work, needed
from pretrain.planning.question import Question
from pretrain.planning.speed import Speed, speed
from pretrain.storage.retention import BYTES_PER_PARAMETER, most_at_once
from pretrain.zero import STAGES, stage_among

_GIB = 2**30
_HOST_COPY_BYTES_PER_S = 20e9  # from a GPU to the host's memory, PCIe 4


@dataclass(frozen=True)
class Plan:
    """One way to run it; bytes, seconds and dollars are of one rank, one step, and the whole run."""

    cut: BatchPlan
    sharding: Sharding
    recompute: str
    parts: dict[str, float]
    speed: Speed
    endurance: Endurance
    usd: float | None
    changes: tuple[str, ...]  # overrides that turn the settings as given into this plan

    @property
    def memory_gib(self) -> float:
        """Return what one rank needs at its peak."""
        return sum(self.parts.values()) / _GIB


@dataclass(frozen=True)
class Refusal:
    """Why it cannot run on so many ranks, and what would help."""

    ranks: int
    reason: str
    remedy: str


def planned(question: Question, ranks: int, factor: float = 1.0) -> Plan | Refusal:
    """Return the settings as they are given if they fit, else the fastest that do, else why none does."""
    try:
        plan_batch(question.batch, sequence_tokens=question.sequence_tokens, ranks=ranks)
    except ValueError as error:
        return Refusal(ranks, str(error), _batch_remedy(question, ranks))
    ways = list(_ways(question, ranks))
    if ways[0].fits:
        return _plan(question, ways[0], factor)
    if any(way.fits for way in ways):
        plans = [_plan(question, way, factor) for way in ways if way.fits]
        return max(plans, key=lambda plan: plan.speed.tokens_per_s)
    least = min(sum(way.parts.values()) for way in ways) / _GIB
    reason = (
        f"does not fit {ranks} × {question.device.name}: at the least, with ZeRO-3, one sequence at a time "
        f"and recompute=full, each needs {least:,.0f} GiB and has {question.device.memory_gib:,.0f}"
    )
    fewest = smallest_that_fits(question)
    remedy = f"the smallest number that fits is {fewest}" if fewest else "no number of these GPUs fits it"
    return Refusal(ranks, reason, remedy)


def smallest_that_fits(question: Question) -> int | None:
    """Return the fewest ranks, whole nodes from one node on, among which the batch divides and that fit."""
    sequences = question.shared_sequences
    for ranks in range(1, sequences + 1):
        whole = ranks % question.ranks_per_node == 0 or (
            ranks < question.ranks_per_node and question.ranks_per_node % ranks == 0
        )
        if not whole or sequences % ranks:
            continue
        if any(way.fits for way in _ways(question, ranks)):
            return ranks
    return None


def factorisations(question: Question, ranks: int, factor: float = 1.0) -> list[tuple[Plan, bool]]:
    """Return every cut of the batch, the largest micro-batch first, and whether it fits."""
    cuts = _cuts(question, ranks, question.shared_sequences)
    ways = [_Way(question, cut, question.stage, question.recompute) for cut in reversed(cuts)]
    return [(_plan(question, way, factor), way.fits) for way in ways]


def memory_table(question: Question, plan: Plan) -> dict[tuple[int, bool], dict[str, float]]:
    """Return the bytes of every part on one rank for every (stage, offload), all else as in `plan`.

    Left out is what the trainer would not do: among so few ranks, or in this precision.
    """
    ranks, precision = plan.sharding.ranks, question.precision
    return {
        (stage, offload): needed(
            question.model,
            replace(plan.sharding, stage=stage, offload=offload),
            _Way(question, plan.cut, stage, plan.recompute).work,
        )
        for stage in STAGES
        for offload in ((False, True) if stage else (False,))
        if not (stage == 0 and precision == "bf16")
        and stage == stage_among(ranks, stage, precision, offload=offload)
    }


def checkpoint_bytes(question: Question) -> float:
    """Return the size of one saved state."""
    return BYTES_PER_PARAMETER * question.model.parameters


def storage_bytes(question: Question) -> dict[str, float]:
    """Return what the disk must hold at the most."""
    kept = most_at_once(question.steps, keep_last=question.keep_last, keep_every_steps=question.keep_every)
    return {
        "data set, if no token repeats": 2.0 * question.tokens,
        f"{kept} saved states": kept * checkpoint_bytes(question),
        "export": 4.0 * question.model.parameters,
    }


@dataclass(frozen=True)
class _Way:
    """One choice of what a user may choose for the sake of memory."""

    question: Question
    cut: BatchPlan
    stage: int
    recompute: str

    @property
    def sharding(self) -> Sharding:
        asked = self.question
        ranks = self.cut.ranks
        stage = stage_among(ranks, self.stage, asked.precision, offload=asked.offload)
        return Sharding(stage, ranks, asked.offload, asked.reduce_bucket, asked.overlap)

    @property
    def work(self) -> Work:
        asked = self.question
        return Work(
            self.cut.micro_sequences,
            asked.sequence_tokens,
            asked.precision,
            asked.compiled,
            asked.device.is_gpu,
            self.recompute,
        )

    @property
    def parts(self) -> dict[str, float]:
        return needed(self.question.model, self.sharding, self.work)

    @property
    def fits(self) -> bool:
        return sum(self.parts.values()) <= self.question.device.memory_gib * _GIB


def _ways(question: Question, ranks: int) -> Iterator[_Way]:
    """Yield the settings as given, then smaller micro-batches, more recomputation and higher stages."""
    cuts = _cuts(question, ranks, question.batch.micro_sequences)
    for stage in range(question.stage, STAGES[-1] + 1):
        for recompute in RECOMPUTE[RECOMPUTE.index(question.recompute) :]:
            for cut in reversed(cuts):
                yield _Way(question, cut, stage, recompute)


def _cuts(question: Question, ranks: int, most: int) -> list[BatchPlan]:
    per_rank = question.shared_sequences // ranks
    return [
        plan_batch(
            replace(question.batch, micro_sequences=size),
            sequence_tokens=question.sequence_tokens,
            ranks=ranks,
        )
        for size in range(1, min(most, per_rank) + 1)
        if per_rank % size == 0
    ]


def _plan(question: Question, way: _Way, factor: float) -> Plan:
    cut = way.cut
    expected = speed(
        question.model,
        question.device,
        way.sharding,
        way.work,
        accumulation=cut.accumulation,
        ranks_per_node=question.ranks_per_node,
        factor=factor,
    )
    endured = _endured(question, cut.ranks, question.tokens / expected.tokens_per_s / 3600)
    price = question.usd_per_gpu_hour
    return Plan(
        cut=cut,
        sharding=way.sharding,
        recompute=way.recompute,
        parts=way.parts,
        speed=expected,
        endurance=endured,
        usd=None if price is None else price * cut.ranks * endured.hours,
        changes=_changes(question, way),
    )


def _endured(question: Question, ranks: int, hours: float) -> Endurance:
    nodes = math.ceil(ranks / question.ranks_per_node)
    return endurance(
        hours=hours,
        ranks=ranks,
        save_seconds=checkpoint_bytes(question) / ranks / _HOST_COPY_BYTES_PER_S,
        write_seconds=checkpoint_bytes(question) / (question.storage_bytes_per_s * nodes),
        startup_seconds=question.startup_seconds,
        limit_hours=question.limit_hours,
        failures_per_gpu_hour=question.failures_per_gpu_hour,
    )


def _changes(question: Question, way: _Way) -> tuple[str, ...]:
    given = plan_batch(question.batch, sequence_tokens=question.sequence_tokens, ranks=way.cut.ranks)
    changes = []
    if way.stage != question.stage:
        changes.append(f"zero=stage{way.stage}")
    if way.recompute != question.recompute:
        changes.append(f"recompute={way.recompute}")
    if way.cut.micro_sequences != given.micro_sequences:
        changes.append(f"batch.micro_sequences={way.cut.micro_sequences}")
    return tuple(changes)


def _batch_remedy(question: Question, ranks: int) -> str:
    sequences = question.shared_sequences
    raised = "raise batch.warmup_from" if question.batch.warmup_from else "raise batch.tokens"
    if not sequences:
        return raised
    shares = [each for each in range(1, sequences + 1) if sequences % each == 0]
    below = max(each for each in shares if each <= ranks)
    above = min((each for each in shares if each > ranks), default=None)
    many = f"at most {below}" if above is None else f"{below} or {above}"
    return f"{many} ranks can share {sequences:,} sequences; or {raised}"
