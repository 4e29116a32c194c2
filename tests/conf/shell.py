"""What a shell sees of a command that runs in this very process."""

import sys
from collections.abc import Callable

import pytest

from conf import command

Refused = Callable[[Callable[[list[str]], int | None], list[str]], tuple[int, str]]


def seen(
    main: Callable[[list[str]], int | None],
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str = "train",
) -> tuple[int, str, str]:
    """Run a command as a shell would; return its exit code and what it printed."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        command.run(main, name="pretrain.command", config=config, usage="How to use it.")
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err
