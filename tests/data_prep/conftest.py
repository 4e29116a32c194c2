"""Commands of data preparation, run in this process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from corpora import as_jsonl, documents

from conf.command import run
from data_prep import finalize, inspect, prepare, units, verify

SMALL = ["packing.block_tokens=1024", "packing.shard_tokens=8192", "validation.fraction=0.1", "workers=1"]
_COMMANDS = {"prepare": prepare, "finalize": finalize, "verify": verify, "inspect": inspect}

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let corpora of a few 100 KB have many work units."""
    monkeypatch.setattr(units, "_SMALLEST_UNIT", 1 << 14)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that prepares and finalizes a corpus and returns its folder."""

    def made(
        paths: list[Path], *overrides: str, name: str = "data", kind: str = "jsonl", tasks: int = 1
    ) -> Path:
        output = tmp_path / name
        arguments = [f"corpus={kind}", f"corpus.paths=[{','.join(map(str, paths))}]", f"output={output}"]
        for task in range(tasks):
            prepare.main([*arguments, *SMALL, f"task_index={task}", f"task_count={tasks}", *overrides])
        finalize.main([f"output={output}"])
        return output

    return made


@pytest.fixture
def corpus(tmp_path: Path) -> list[Path]:
    """Three files whose documents repeat within a file and across files."""
    texts = documents(600)
    return [
        as_jsonl(tmp_path / "a.jsonl", texts[:200] + texts[:10]),
        as_jsonl(tmp_path / "b.jsonl", texts[190:400]),
        as_jsonl(tmp_path / "c.jsonl", texts[390:] + [""] * 3),
    ]


@pytest.fixture
def exit_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Return a function that runs a command as the shell would: its exit code and standard error."""

    def called(name: str, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            run(_COMMANDS[name].main, name=f"data_prep.{name}", config=name, usage="")
        return int(left.value.code or 0), capsys.readouterr().err

    return called
