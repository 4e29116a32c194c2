"""How a plan reads on a terminal."""

from collections.abc import Iterable, Sequence

from pretrain.planning.calibration import Calibration
from pretrain.planning.plans import (
    Plan,
    Refusal,
    factorisations,
    memory_table,
    storage_bytes,
)
from pretrain.planning.question import Question
from pretrain.planning.shape import flops_per_token, parameters

_GIB = 2**30
_MOST_CUTS = 6


def whole_text(question: Question, plans: Sequence[Plan | Refusal], calibrated: Calibration) -> str:
    """Return the plan for the ranks asked for, the first of `plans`, and a line for each other size."""
    asked, others = plans[0], plans[1:]
    blocks = [_model_block(question)]
    if isinstance(asked, Plan):
        blocks += [_asked_block(question, asked, calibrated), _memory_block(question, asked)]
        blocks += [_cuts_block(question, asked.cut.ranks, calibrated.factor), _storage_block(question)]
    else:
        blocks.append(f"{asked.ranks} ranks: {asked.reason}\n  {asked.remedy}")
    blocks.append("Other sizes\n" + sizes_table([(question, plan) for plan in others], named=False))
    return "\n\n".join(blocks)


def sizes_table(rows: Iterable[tuple[Question, Plan | Refusal]], *, named: bool) -> str:
    """Return one line for each plan."""
    head = ["experiment"] if named else []
    head += ["ranks", "ZeRO", "micro × acc", "GiB", "tokens/s", "MFU", "hours", "starts", "save every", "$"]
    lines: list[list[str]] = [head]
    notes: dict[int, str] = {}
    for question, plan in rows:
        start = [question.name] if named else []
        if isinstance(plan, Refusal):
            notes[len(lines)] = f"{plan.reason}; {plan.remedy}"
            lines.append([*start, f"{plan.ranks:,}"])
            continue
        lines.append([*start, *_cells(plan)])
    widths = [max(len(line[column]) for line in lines if column < len(line)) for column in range(len(head))]
    left = 1 if named else 0
    told = []
    for number, line in enumerate(lines):
        cells = [
            cell.ljust(widths[column]) if column < left else cell.rjust(widths[column])
            for column, cell in enumerate(line)
        ]
        told.append("  " + "  ".join(cells) + (f"  {notes[number]}" if number in notes else ""))
    return "\n".join(told)


def _cells(plan: Plan) -> list[str]:
    return [
        f"{plan.cut.ranks:,}",
        str(plan.sharding.stage),
        f"{plan.cut.micro_sequences} × {plan.cut.accumulation}",
        f"{plan.memory_gib:.1f}",
        f"{plan.speed.tokens_per_s:,.0f}",
        f"{plan.speed.mfu:.0%}",
        hours(plan.endurance.hours),
        str(plan.endurance.starts),
        f"{plan.endurance.interval_seconds / 60:,.0f} min",
        "?" if plan.usd is None else f"{plan.usd:,.0f}",
    ]


def hours(value: float) -> str:
    """Return hours with as many places as a reader needs."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _model_block(question: Question) -> str:
    shape = question.model
    lines = [
        f"{question.name}: {shape.parameters:,} parameters, {question.tokens:,} tokens in "
        f"{question.steps:,} steps of {question.batch.told}"
    ]
    lines += [f"  {count:>15,}  {name}" for name, count in parameters(shape, padded=False).items()]
    parts = flops_per_token(shape, question.sequence_tokens)
    total = sum(parts.values())
    lines.append(f"FLOPs per token, forward and backward: {total / 1e6:,.1f} million")
    lines += [f"  {value / 1e6:>13,.1f} M  {value / total:>4.0%}  {name}" for name, value in parts.items()]
    return "\n".join(lines)


def _asked_block(question: Question, plan: Plan, calibrated: Calibration) -> str:
    speed, endured, cut, device = plan.speed, plan.endurance, plan.cut, question.device
    limit = f"a time limit of {hours(question.limit_hours)} h" if question.limit_hours else "no time limit"
    minutes = endured.interval_seconds / 60
    measured = (
        f" (calibrated × {calibrated.factor:.2f} to {', '.join(calibrated.sources)})"
        if calibrated.sources
        else " (expected; no measured run to calibrate to)"
    )
    lines = [
        f"On {cut.ranks:,} × {device.name}: ZeRO-{plan.sharding.stage}, {cut.micro_sequences} sequences × "
        f"{cut.accumulation} accumulated, recompute={plan.recompute}: "
        f"{plan.memory_gib:.1f} of {device.memory_gib:.0f} GiB",
        *([f"  as given it does not fit; add: {' '.join(plan.changes)}"] if plan.changes else []),
        f"  {speed.tokens_per_s:,.0f} tokens/s, {speed.tokens_per_s / cut.ranks:,.0f} each, "
        f"MFU {speed.mfu:.1%}{measured}",
        f"  a step {speed.step:.3g} s: computing {speed.compute:.3g}, optimizer {speed.optimizer:.2g}, "
        f"waiting for other ranks {speed.communication:.2g}",
        f"  {hours(endured.hours)} hours, of which {hours(endured.lost_hours)} for starts, saves and work "
        f"done again; {endured.starts} starts with {limit} and {endured.failures:.2g} failures expected",
        f"  save every {minutes:,.0f} min (Daly, for {endured.save_seconds:.2g} s of a save): "
        f"checkpoint.minutes={max(1, round(minutes))}",
        "  cost unknown; give usd_per_gpu_hour=…" if plan.usd is None else f"  {plan.usd:,.0f} $",
    ]
    return "\n".join(lines)


def _memory_block(question: Question, plan: Plan) -> str:
    table = memory_table(question, plan)
    names = list(dict.fromkeys(name for parts in table.values() for name in parts))
    heads = [f"{stage}{' offload' if offload else ''}" for stage, offload in table]
    lines = ["GiB on each rank, at this micro-batch", f"  {'ZeRO stage':<20}" + _row(heads)]
    for name in names:
        lines.append(f"  {name:<20}" + _row([f"{parts.get(name, 0) / _GIB:.2f}" for parts in table.values()]))
    lines.append(f"  {'sum':<20}" + _row([f"{sum(parts.values()) / _GIB:.2f}" for parts in table.values()]))
    limit = question.device.memory_gib * _GIB
    fits = ["fits" if sum(parts.values()) <= limit else "no" for parts in table.values()]
    lines.append(f"  {'':<20}" + _row(fits) + "   (offload: zero.offload=true)")
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return "".join(f"{cell:>11}" for cell in cells)


def _cuts_block(question: Question, ranks: int, factor: float) -> str:
    lines = [
        f"Ways to cut {question.batch.tokens // question.sequence_tokens:,} sequences among {ranks:,} ranks"
    ]
    cuts = factorisations(question, ranks, factor)
    for plan, fits in cuts[:_MOST_CUTS]:
        verdict = f"{plan.speed.tokens_per_s:>12,.0f} tokens/s" if fits else "     does not fit"
        cut = f"{plan.cut.micro_sequences:>5} × {plan.cut.accumulation:<5}"
        lines.append(f"  {cut} {plan.memory_gib:>7.1f} GiB {verdict}")
    if len(cuts) > _MOST_CUTS:
        lines.append(f"  … and {len(cuts) - _MOST_CUTS} smaller micro-batches")
    return "\n".join(lines)


def _storage_block(question: Question) -> str:
    parts = storage_bytes(question)
    total = sum(parts.values())
    return "\n".join(
        [
            f"Disk: {total / 1e9:,.1f} GB",
            *(f"  {value / 1e9:>10,.2f} GB  {name}" for name, value in parts.items()),
        ]
    )
