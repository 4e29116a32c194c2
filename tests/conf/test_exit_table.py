"""The one table of exit codes, docs/recovering.md, says what the programs do; no other page has one."""

import re
from pathlib import Path

import pytest

from conf.exits import Exit
from slurm.decision import Facts, decide

DOCS = Path(__file__).resolve().parents[2] / "docs"
# Codes that are nobody's decision: a crash, and a process that a signal ended.
CRASHES = {"1", "130", "137", "128 + n"}
AGAIN = {"requeue": "starts again", "failed": "fails"}


def table() -> dict[str, list[str]]:
    """Return the cells of each row of the table by its code."""
    rows = re.findall(r"^\| ([\d +n]+) \|(.+)\|$", (DOCS / "recovering.md").read_text(), re.M)
    assert len(rows) == len(dict(rows))
    return {code: [cell.strip() for cell in cells.split("|")] for code, cells in rows}


def test_the_table_names_every_exit_code_and_no_other():
    named = {code: cells[0] for code, cells in table().items()}
    ours = {str(int(each)): each.name.lower().replace("_", " ") for each in Exit}
    assert {code: name for code, name in named.items() if code not in CRASHES} == ours
    assert set(named) - set(ours) == CRASHES


@pytest.mark.parametrize("code", sorted(CRASHES | {str(int(each)) for each in Exit}))
def test_it_tells_what_a_slurm_job_does_then(code: str):
    number = int(code.replace("128 + n", "139"))
    facts = Facts(number, number == 0, asked_by_user=False, job_state="RUNNING", crashes=1, most_crashes=3)
    verdict = decide(facts).verdict
    assert table()[code][-1] == AGAIN.get(verdict, "is done")


def test_no_other_page_has_a_table_of_exit_codes():
    having = [
        page.name for page in DOCS.glob("*.md") if re.search(r"^\| (code|exit)\b", page.read_text(), re.M)
    ]
    assert having == ["recovering.md"]
