"""What a report of one run says, and in which order: the verdict first, then what it rests on."""

from typing import Any

from pretrain.reporting.chart import short
from pretrain.reporting.document import Curve, Diagram, Document, Quote, Section, Table
from pretrain.reporting.scorecard import Scorecard
from pretrain.watching.reference import AHEAD, BEHIND, DIVERGED, ON_TRACK, UNKNOWN, other_corpora

_TONES = {ON_TRACK: "good", AHEAD: "good", BEHIND: "warn", DIVERGED: "bad", UNKNOWN: "plain"}
_MOST_ROWS = 12
_OTHER_DOCUMENTS = (
    "This run's validation split holds other documents of the corpus than the reference was validated on. "
    "The tolerance does not count that: by how much two such sets differ is not known."
)
_NONE = "–"


def document(card: Scorecard) -> Document:
    """Return the report of a run."""
    verdict, lead = verdict_and_lead(card)
    sections = [
        _quality(card),
        _scores(card),
        _speed(card),
        _cost(card),
        _endurance(card),
        _recipe(card),
        _samples(card),
    ]
    return Document(
        title=card.name,
        verdict=verdict,
        tone=_tone(card),
        lead=lead,
        tiles=_tiles(card),
        sections=[section for section in sections if section],
    )


def verdict_and_lead(card: Scorecard) -> tuple[str, str]:
    """Return the judgement in a few words, and what it rests on."""
    at = card.standing
    state = f"The run {_state_words(card)}."
    if at is None:
        return "Nothing validated yet", state
    if at.verdict == DIVERGED:
        best = min((each.loss for each in card.comparisons), default=None)
        rose = (
            "the loss, or its gradient, is no longer finite"
            if at.loss != at.loss
            else (f"its validation loss rose to {at.loss:.3f}, from {best:.3f} at best")
        )
        return "Diverged", f"After {short(at.tokens)} tokens {rose}. {state}"
    if card.reference is None or at.behind is None or at.reference_loss is None:
        reached = f"Validation loss {at.loss:.4f} after {short(at.tokens)} tokens."
        return "Nothing to compare with", " ".join([reached, *_on_another_corpus(card), state])
    against = (
        f"Validation loss {at.loss:.4f} after {short(at.tokens)} tokens; {card.reference.title} "
        f"had {at.reference_loss:.4f} there; runs as good may differ by {at.tolerance:.3f}. {state}"
    )
    condition = f", if the corpus is {' or '.join(card.reference.corpora)}" if None in card.corpora else ""
    if at.verdict == ON_TRACK:
        return f"On track{condition}", against
    tokens = f", {short(abs(at.tokens_behind))} tokens" if at.tokens_behind else ""
    way = "Behind" if at.verdict == BEHIND else "Ahead"
    return f"{way} by {abs(at.behind):.3f} nats{tokens}{condition}", against


def _tone(card: Scorecard) -> str:
    verdict = card.standing.verdict if card.standing else UNKNOWN
    return "plain" if None in card.corpora and verdict != DIVERGED else _TONES[verdict]


def _on_another_corpus(card: Scorecard) -> list[str]:
    """Return, as a sentence, why the losses of the reference are not shown, if that is why."""
    reference = card.reference
    if reference is None or not (other := other_corpora(reference, card.corpora)):
        return []
    return [
        f"The run reads {', '.join(other)}, which is not the corpus of {reference.title} "
        f"({' or '.join(reference.corpora)}): their losses are of different texts, and are not compared."
    ]


def _state_words(card: Scorecard) -> str:
    now = card.summary
    where = (
        f"at step {now.step:,} of {now.total_steps:,}"
        if now.step and now.total_steps
        else "before its first step"
    )
    said = {"finished": "is finished", "running": "goes on", "starting": "is starting", "silent": "is silent"}
    detail = f" ({now.detail})" if now.detail else ""
    return f"{said.get(now.state, f'has {now.state}')} {where}{detail}"


def _tiles(card: Scorecard) -> list[tuple[str, str, str]]:
    at, now = card.standing, card.summary
    behind = _difference(at.behind if at else None)
    tokens = now.figures.get("tokens")
    return [
        ("Validation loss", _number(at.loss if at else None, "{:.4f}"), "nats per token"),
        ("Beside the reference", behind, "nats; below 0 is ahead"),
        ("Tokens", short(tokens) if tokens else _NONE, f"step {now.step or 0:,} of {now.total_steps or 0:,}"),
        ("Tokens per second", _number(_times(card.tokens_per_s_per_gpu, card.ranks), "{:,.0f}"),
         _count(card.ranks, "rank")),
        ("MFU", _number(card.mfu, "{:.1%}"), "median"),
        ("Goodput", _number(now.figures.get("time/goodput"), "{:.0%}"), "of all time, in steps kept"),
        ("Starts", str(card.starts), _count(sum(card.alerts.values()), "alert")),
        ("Cost", _number(card.usd, "${:,.2f}"), f"{card.gpu_hours:,.2f} GPU hours"),
    ]  # fmt: skip


def _quality(card: Scorecard) -> Section:
    curves = [Curve("training", "faint", card.losses)]
    published, levels = [], []
    words = ["No reference is set (reference=NAME); this is the run alone."]
    if reference := card.reference:
        end = max(
            [tokens for tokens, _ in card.losses] + [each.tokens for each in card.comparisons], default=0
        )
        shown = [point for point in reference.curve if point[0] <= 2 * end] or reference.curve[:2]
        published = [Curve("reference", "reference", [(float(tokens), loss) for tokens, loss in shown])]
        levels = [(each.name, each.val_loss) for each in reference.levels if each.val_loss is not None]
        words = [f"Beside {reference.title}, validated on {reference.validation}. Source: {reference.source}"]
        words += _on_another_corpus(card)
        if reference.curve and not reference.same_validation:
            words.append(_OTHER_DOCUMENTS)
    curves.append(Curve("this run", "run", [(float(each.tokens), each.loss) for each in card.comparisons]))
    curves += published  # dashed, and last: it shows on a run that lies upon it
    rows = [
        [f"{each.step:,}", short(each.tokens), f"{each.loss:.4f}", _number(each.reference, "{:.4f}"),
         _difference(each.behind), _number(each.tolerance, "{:.3f}")]
        for each in _picked(card.comparisons)
    ]  # fmt: skip
    table = Table(["step", "tokens", "this run", "reference", "difference", "tolerance"], rows)
    diagram = Diagram("Loss over tokens", curves, levels)
    return Section("Loss at the same tokens", words, table if rows else None, diagram)


def _scores(card: Scorecard) -> Section | None:
    rows = [[name, f"{value:.4f}", ""] for name, value in card.scores.items()]
    for level in card.reference.levels if card.reference else []:
        for name, value in (
            ("validation loss", level.val_loss),
            ("HellaSwag, completion style", level.hellaswag),
            ("HellaSwag, harness style", level.hellaswag_harness),
        ):
            if value is not None:
                rows.append([f"{level.name}: {name}", f"{value:.4f}", level.source])
    return Section("Scores", [], Table(["score", "value", "source"], rows)) if rows else None


def _speed(card: Scorecard) -> Section | None:
    rows = [["this run", f"{card.ranks} ranks", _number(card.tokens_per_s_per_gpu, "{:,.0f}"),
             _number(card.mfu, "{:.1%}"), "median of its reports"]]  # fmt: skip
    for each, mfu in card.speeds:
        machine = f"{each.gpus} × {each.gpu}"
        rows.append(
            [each.code, machine, f"{each.tokens_per_s_per_gpu:,.0f}", _number(mfu, "{:.1%}"), each.source]
        )
    head = ["code", "machine", "tokens/s per GPU", "MFU", "source"]
    words = [
        "MFU is (6N + 12·layers·width·context) FLOP per token × tokens/s ÷ the dense bf16 peak, for all."
    ]
    return Section("Throughput", words, Table(head, rows))


def _cost(card: Scorecard) -> Section:
    hours = card.summary.wall_seconds / 3600
    rows = [
        [
            "this run",
            f"{hours:,.2f}",
            _number(card.usd, "{:,.2f}"),
            f"{card.gpu_hours:,.2f} GPU hours paid for",
        ]
    ]
    for each in card.reference.published if card.reference else []:
        rows.append([each.machine, f"{each.hours:,.2f}", _number(each.usd, "{:,.0f}"), each.source])
    words = [] if card.usd is not None else ["No price is known: give usd_per_gpu_hour=…"]
    return Section("Cost", words, Table(["run", "hours", "$", "source"], rows))


def _endurance(card: Scorecard) -> Section:
    seconds = card.summary.seconds
    total = sum(seconds.values()) or 1.0
    split = ", ".join(f"{name} {value / total:.1%}" for name, value in seconds.items())
    words = [
        f"{card.starts} start{'s' if card.starts > 1 else ''}; {card.skipped_steps} steps skipped, "
        f"for want of a finite gradient. Where the time went: {split}."
    ]
    if card.alerts:
        words.append("Alerts: " + ", ".join(f"{name} × {count}" for name, count in card.alerts.items()) + ".")
    rows = [
        [str(number), f"{step:,}" if step is not None else _NONE, reason]
        for number, step, reason in card.ends
    ]
    table = Table(["attempt", "ended at step", "why"], rows) if rows else None
    if not rows:
        words.append("No attempt had to be followed by another.")
    return Section("What it survived", words, table)


def _recipe(card: Scorecard) -> Section | None:
    if card.reference is None or not card.reference.recipe:
        return None
    sources = {each.setting: each.source for each in card.reference.recipe}
    rows = [[name, _text(ours), _text(theirs), sources[name]] for name, ours, theirs in card.differences]
    if not rows:
        same = f"Every setting of {card.reference.title} that is known is the same here."
        return Section("Recipe", [same])
    return Section("Recipe: what differs", [], Table(["setting", "this run", "reference", "source"], rows))


def _samples(card: Scorecard) -> Section | None:
    quotes = [Quote(str(each.get("prompt", "")), str(each.get("text", ""))) for each in card.samples]
    steps = sorted({int(each["step"]) for each in card.samples if "step" in each})
    words = [f"Written at step {steps[-1]:,}."] if steps else []
    return Section("Samples", words, quotes=quotes) if quotes else None


def _picked(rows: list[Any]) -> list[Any]:
    """Return a dozen of many rows, evenly spread, the first and the last among them."""
    if len(rows) <= _MOST_ROWS:
        return rows
    return [rows[round(number * (len(rows) - 1) / (_MOST_ROWS - 1))] for number in range(_MOST_ROWS)]


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else form.format(value)


def _difference(nats: float | None) -> str:
    return _NONE if nats is None else f"{round(nats, 4) + 0.0:+.4f}"  # + 0.0: no minus before a zero


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _text(value: Any) -> str:
    return _NONE if value is None else f"{value:g}" if isinstance(value, float) else f"{value}"
