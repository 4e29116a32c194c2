import io

from data_prep.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_whole_lines_and_few_of_them():
    log, now = io.StringIO(), [0.0]
    progress = Progress("prepare", 1000, stream=log, clock=lambda: now[0])
    for now[0] in (4.0, 8.0, 12.0, 16.0):
        progress.advance(250, 60)
    progress.finish()
    lines = log.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(
        "prepare bytes=750 total_bytes=1000 tokens=180 mb_per_second=0.00 tokens_per_second=15 seconds_left=4"
    )
    assert "\x1b" not in log.getvalue()


def test_a_terminal_gets_one_line_that_is_cleared_at_the_end():
    terminal, now = Terminal(), [0.0]
    progress = Progress("prepare", 4_000_000, stream=terminal, clock=lambda: now[0])
    now[0] = 2.0
    progress.advance(1_000_000, 250_000)
    progress.finish()
    shown = terminal.getvalue()
    assert "\n" not in shown
    assert "25%  1.0 of 4.0 MB  0.5 MB/s  0.12 Mtoken/s  0:06 left" in shown
    assert shown.endswith("\r\x1b[K")
