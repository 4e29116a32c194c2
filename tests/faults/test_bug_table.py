"""The bugs that `bugs` plants follow the source: a passage that is gone proves nothing."""

from pathlib import Path

from faults.bug_table import BUGS

ROOT = Path(__file__).resolve().parents[2]


def test_every_bug_can_be_planted():
    counts = {bug.what: (ROOT / bug.file).read_text().count(bug.old) for bug in BUGS}
    assert {what: count for what, count in counts.items() if count != 1} == {}


def test_every_bug_names_tests_that_exist():
    missing = [
        (bug.what, node)
        for bug in BUGS
        for node in bug.tests
        for file, _, name in [node.partition("::")]
        if f"def {name.partition('[')[0]}(" not in (ROOT / file).read_text()
    ]
    assert missing == []
