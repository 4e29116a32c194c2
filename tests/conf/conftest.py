"""What the tests of commands share: how one is refused, and what training does before any work."""

from collections.abc import Callable

import pytest
from shell import Refused, seen

from pretrain import opening
from pretrain.distributed import World


@pytest.fixture
def refused(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that runs a command, checks that it printed one line, and returns code and line."""

    def line_of(main: Callable[[list[str]], int | None], arguments: list[str]) -> tuple[int, str]:
        code, printed, line = seen(main, arguments, monkeypatch, capsys)
        assert printed == ""
        assert line.count("\n") == 1, line
        assert line.startswith("pretrain.command: error: ")
        assert line.endswith(f" [exit {code}]\n")
        return code, line

    return line_of


@pytest.fixture
def begin(world: World) -> Callable[[list[str]], None]:
    """Return what `pretrain.train` does before any work: the settings, the data, the directory."""

    def main(overrides: list[str]) -> None:
        with opening.opened(world, overrides):
            pass

    return main
