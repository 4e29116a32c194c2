"""One line per run tells a person at a terminal how all of them do."""

import time
from pathlib import Path

import pytest
from made_runs import make_run

from conf.exits import ConfigError
from pretrain import dashboard
from pretrain.dashboard import main, without_flags
from pretrain.watching.metrics_log import MetricsLog
from pretrain.watching.run_log import read_run
from pretrain.watching.run_status import status_lines


def test_every_run_has_one_aligned_line(tmp_path: Path):
    make_run(tmp_path / "done")
    make_run(tmp_path / "a-much-longer-name", last=150, crash_at=120, finished=False)
    log = MetricsLog(tmp_path / "new", attempt=0, say=print)
    log.write({"event": "started", "settings": {}})
    log.close()
    head, *lines = status_lines([read_run(tmp_path / name) for name in ("done", "a-much-longer-name", "new")])
    place = head.index("state")
    assert [line[place:].split()[:3] for line in lines] == [
        ["finished", "1000/1000", "524M"],
        ["running", "150/1000", "78.6M"],
        ["starting", "–", "–"],
    ]
    assert lines[1].endswith("loss spike: z=9.3 at step 120")


def test_a_name_or_an_alert_cannot_forge_a_line(tmp_path: Path):
    run_dir = make_run(tmp_path / "evil\n\x1b[2Jrun", last=20)
    log = MetricsLog(run_dir, attempt=0, say=print)
    log.write({"alert": "a\nb\x1b[31m", "text": "", "level": "WARN"})
    log.close()
    lines = status_lines([read_run(run_dir)])
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_status_prints_once_or_again_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    make_run(tmp_path / "a", last=20)
    assert main(["status", f"runs={tmp_path}"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(dashboard.time, "sleep", sleep)
    assert main(["status", f"runs={tmp_path}", "watch=7"]) == 0
    assert waits == [7, 7, 7]
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_another_word_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="'stats' is neither status nor publish"):
        main(["stats", f"runs={tmp_path}"])


def test_a_line_is_ready_at_once_for_a_long_run(tmp_path: Path):
    run = read_run(make_run(tmp_path, last=10_000, every=1))
    start = time.perf_counter()
    status_lines([run])
    assert time.perf_counter() - start < 0.5


def test_a_flag_is_a_setting_that_a_written_one_overrules():
    assert without_flags(["status", "runs=R", "--watch"]) == ["status", "watch=10", "runs=R"]
    assert without_flags(["status", "--watch", "watch=3"]) == ["status", "watch=10", "watch=3"]
    assert without_flags(["wandb.project=P", "--publish"]) == ["publish", "wandb.project=P"]
    assert without_flags(["--help"]) == ["--help"]


def test_the_distance_from_the_reference_is_told(tmp_path: Path):
    log = MetricsLog(tmp_path, attempt=0, say=print)
    log.write({"step": 1, "tokens": 1, "val/loss": 3.5, "val/loss_behind": 0.0123})
    log.close()
    head, line = status_lines([read_run(tmp_path)])
    assert line[head.index("behind") :].startswith("+0.012")
