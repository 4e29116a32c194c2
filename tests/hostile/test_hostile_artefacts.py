"""Nothing that a stranger hands to us runs code, writes elsewhere, reads secrets or eats the memory."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hostile import states

TESTS = Path(__file__).resolve().parents[1]
MOST_MEBIBYTES = 512


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    """What each artefact came to, and what was left in the directory and beside it."""
    around = tmp_path_factory.mktemp("around")
    (around / "root").mkdir()
    search = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(TESTS / "hostile" / "visit.py"), str(around / "root")],
        env={**os.environ, "PYTHONPATH": search, "HOME": str(around), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return around, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_no_artefact_runs_code_or_reaches_outside(visits):
    around, told = visits
    assert [each for each in told if each.get("seen")] == []
    assert sorted(path.name for path in around.iterdir()) == ["root"]
    assert [path for path in around.rglob("*") if states.CANARY in path.name or "evil" in path.name] == []


@pytest.mark.slow
def test_what_is_said_of_an_artefact_is_one_of_our_own_errors(visits):
    untyped = [each for each in visits[1] if str(each.get("said")).startswith("untyped")]
    assert untyped == []


@pytest.mark.slow
def test_the_artefacts_are_many_and_refused(visits):
    told = [each for each in visits[1] if "said" in each]
    counts = Counter(each["kind"] for each in told)
    print(f"{len(told)} artefacts: {dict(counts)}; {visits[1][-1]['mebibytes']:.0f} MiB")
    assert len(told) >= 160
    assert counts["pickle"] + counts["safetensors"] >= 40
    assert counts["tar"] >= 60
    assert counts["address"] >= 30
    assert counts["settings"] >= 20
    assert counts["bomb"] >= 10
    # A document that is too long is dropped and counted, not refused: its line ends somewhere.
    assert [each["name"] for each in told if each["said"] == "nothing" and each["kind"] != "bomb"] == []


@pytest.mark.slow
def test_no_artefact_takes_more_than_half_a_gibibyte(visits):
    assert visits[1][-1]["mebibytes"] < MOST_MEBIBYTES
