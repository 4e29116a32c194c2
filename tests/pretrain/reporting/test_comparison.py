"""Several runs end in one table, the best first."""

from pathlib import Path

import pytest
from page_parts import Parts
from planted_runs import plant, published

from pretrain import report
from pretrain.reporting.comparison import comparison, differing
from pretrain.watching.run_log import read_run


def test_a_sweep_ends_in_one_table_the_best_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, peak, add in (
        ("00-peak_3e-4", 3e-4, 0.05),
        ("01-peak_6e-4", 6e-4, 0.0),
        ("02-peak_2e-3", 2e-3, 0.2),
    ):
        schedule = {"shape": "cosine", "peak": peak, "warmup_steps": 700, "final_fraction": 0.0}
        plant(tmp_path / name, lambda step, add=add: published(step) + add, last=5000, schedule=schedule)
    report.main([f"runs={tmp_path}"])
    said = capsys.readouterr().out
    assert "Best: 01-peak_6e-4" in said
    table = [line for line in said.splitlines() if line.startswith("| 0")]
    assert [line.split(" | ")[0].strip("| ") for line in table] == [
        "01-peak\\_6e-4", "00-peak\\_3e-4", "02-peak\\_2e-3",
    ]  # fmt: skip
    head = next(line for line in said.splitlines() if line.startswith("| run"))
    assert head.split(" | ")[1] == "schedule.peak"
    assert (tmp_path / "report.md").is_file()
    assert Parts((tmp_path / "report.html").read_text()).loaded == []


def test_only_settings_that_differ_are_columns():
    given = [
        {"seed": 1, "schedule.peak": 0.1, "run_dir": "a"},
        {"seed": 1, "schedule.peak": 0.2, "run_dir": "b"},
    ]
    assert differing(given) == ["schedule.peak"]


def test_a_comparison_of_runs_without_any_validation_says_so(tmp_path: Path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "metrics.jsonl").write_text(
        '{"attempt": 0, "time": 1.0, "event": "started", "settings": {}}\n'
    )
    assert comparison([read_run(run_dir)], "sweep").verdict == "Nothing validated yet"
