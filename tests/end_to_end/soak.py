"""Hurt runs at random for a given time or number of faults, and tell how they ended.

python tests/end_to_end/soak.py [--minutes M] [--faults N] [--kinds kill,stop,disk,point,tear] [--seed S]
                                [--configurations 0,3] [--only CHAIN] [--report FILE]

N is for each configuration. What befalls a run follows from the seed and the number of its chain, so
`--seed S --only CHAIN` meets the same faults again. Exit code 1 if anything was lost or differs.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).resolve().parents[1]
    sys.path[:0] = [str(tests.parent), str(tests)]  # the packages before the folders of their tests

from conftest import make_data_set
from endurance import CONFIGURATIONS, Chain, Tally, straight

KINDS = ("kill", "stop", "disk", "point", "tear")
FAULTS_PER_CHAIN = 10


def main() -> int:
    """Print what each configuration met; return 1 if one did not end as its twin."""
    asked = _asked()
    deadline = time.monotonic() + 60 * asked.minutes
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        directory = Path(name)
        shards = make_data_set(directory, documents=60, seed=0)
        tallies = {number: Tally() for number in asked.configurations}
        twins: dict[int, Path] = {}
        chain = asked.only or 0
        while time.monotonic() < deadline and (unfinished := _unfinished(tallies, asked.faults)):
            for number in unfinished:
                configuration = CONFIGURATIONS[number]
                if number not in twins:
                    twins[number] = straight(configuration, shards, directory / f"twin-{number}")
                seed = f"{asked.seed}/{number}/{chain}"
                place = directory / f"chain-{number}-{chain}"
                left = min(FAULTS_PER_CHAIN, asked.faults - sum(tallies[number].faults.values()))
                known = len(tallies[number].wrong)
                Chain(configuration, shards, place, seed).live(
                    asked.kinds, left, tallies[number], twins[number]
                )
                if len(tallies[number].wrong) > known:
                    kinds = ",".join(asked.kinds)
                    print(
                        f"again: --seed {asked.seed} --configurations {number} --only {chain} --kinds {kinds}"
                    )
                _tell(asked, tallies)
            if asked.only is not None:
                break
            chain += 1
    wrong = [each for tally in tallies.values() for each in tally.wrong]
    print("\n".join(wrong) or "nothing was lost, taken twice or changed", flush=True)
    return 1 if wrong else 0


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--faults", type=int, default=10**9)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=KINDS)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--configurations",
        type=lambda text: [int(each) for each in text.split(",")],
        default=list(range(len(CONFIGURATIONS))),
    )
    parser.add_argument("--only", type=int)
    parser.add_argument("--report", type=Path)
    asked = parser.parse_args()
    if unknown := set(asked.kinds) - set(KINDS):
        parser.error(f"unknown kinds {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return asked


def _unfinished(tallies: dict[int, Tally], faults: int) -> list[int]:
    return [number for number, tally in tallies.items() if sum(tally.faults.values()) < faults]


def _tell(asked: argparse.Namespace, tallies: dict[int, Tally]) -> None:
    """Write what has happened so far to the report, and to the terminal."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    lines = [
        f"command   python tests/end_to_end/soak.py {' '.join(sys.argv[1:])}",
        f"seed      {asked.seed}",
        f"machine   {platform.platform()}, Python {platform.python_version()}",
        f"commit    {commit}",
        f"at        {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC",
        "",
        *(f"{CONFIGURATIONS[number].name}: {tally}" for number, tally in tallies.items()),
        *(each for tally in tallies.values() for each in tally.wrong),
    ]
    if asked.report:
        asked.report.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[6:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
