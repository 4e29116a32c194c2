"""A log gets whole plain lines, a terminal one moving line, and neither obeys what a message contains."""

import io
import re

from pretrain.watching.console import Console, report_text

METRICS = {
    "train/loss": 3.14159,
    "optim/lr": 6e-4,
    "optim/grad_norm": 0.5,
    "perf/tokens_per_s": 1234567.0,
    "perf/mfu": 0.412,
    "perf/data_wait_frac": 0.003,
    "time/eta_h": 1.5,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_report_names_what_was_measured_and_nothing_else():
    assert report_text(10, 100, METRICS) == (
        "step=10/100 loss=3.1416 lr=6.00e-04 grad_norm=0.500 tokens/s=1,234,567 "
        "mfu=41.2% data_wait=0.3% eta=1:30:00"
    )
    assert report_text(10, 100, {"train/loss": float("nan")}) == "step=10/100 loss=nan"


def test_a_log_gets_one_plain_line_per_report():
    stream = io.StringIO()
    console = Console(100, True, stream)
    console.report(10, METRICS)
    console.report(20, METRICS)
    console.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d step=[\x20-\x7e]+", line) for line in lines)


def test_a_terminal_gets_one_line_written_over_and_keeps_validation_results():
    stream = Terminal()
    console = Console(100, True, stream)
    console.report(10, METRICS)
    console.report(20, {"train/loss": 3.0, "val/loss": 2.9})
    console.report(30, METRICS)
    console.say("saved")
    console.report(40, METRICS)
    console.close()
    shown = stream.getvalue()
    assert shown.count("\n") == 3  # the validation, the message, the end
    assert shown.endswith("\n")
    assert "val_loss=2.9" in shown


def test_a_line_on_a_terminal_never_wraps(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    Console(100, True, stream).report(10, METRICS)
    assert len(stream.getvalue().replace("\r\x1b[2K", "")) == 39


def test_a_message_cannot_forge_lines_or_move_the_cursor():
    stream = io.StringIO()
    Console(100, True, stream).say("a\nstep=99 loss=0\x1b[2J\r\x00ü")
    assert stream.getvalue().count("\n") == 1
    assert r"a\nstep=99 loss=0\x1b[2J\r\x00ü" in stream.getvalue()


def test_other_ranks_are_silent():
    stream = io.StringIO()
    console = Console(100, False, stream)
    console.report(1, METRICS)
    console.say("hello")
    console.close()
    assert stream.getvalue() == ""


def test_a_closed_stream_does_not_stop_the_run():
    stream = io.StringIO()
    console = Console(100, True, stream)
    stream.close()
    console.report(1, METRICS)
    console.say("hello")
