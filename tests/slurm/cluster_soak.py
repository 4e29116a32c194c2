"""Send chains through a real cluster and hurt them at random; tell what was lost.

python tests/slurm/cluster_soak.py [--minutes 60] [--seed S] [--report FILE]

A chain is one `slurm.submit`: text, an array of four tasks that prepare it, finalize, a training on two
nodes. The first is left alone; the others meet a fault every few seconds, eight at most, and must end by
themselves with the same shards, losses, last state and ledger, to the bit. Nodes come back after a while, as
machines do; what only an administrator can do (resume a drained node, release a held job) is done, and
counted. Needs root.
Exit code 1 if anything was lost, differs, or did not end.
"""

import argparse
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root))  # the packages before the folders of their tests

from hurting import STEPS, Chain, Hurt, Nature, Tally
from slurm_cluster import Cluster
from training import equals, made_texts, read

MOST_FAULTS = 8
LONGEST_SECONDS = 1500.0  # of a chain


def live(chain: Chain, tally: Tally, chance: random.Random, *, faults: int) -> None:
    """Hurt a chain so many times, unless it ends before; then wait for its end."""
    nature = Nature(chain.cluster, tally)
    hurt, met = Hurt(chain, nature, chance), 0
    deadline, next_fault = time.monotonic() + LONGEST_SECONDS, time.monotonic() + chance.uniform(0, 10)
    try:
        while not chain.ended():
            if time.monotonic() > deadline:
                raise AssertionError(f"not ended after {LONGEST_SECONDS:.0f} s: {chain.states()}")
            if met < faults and time.monotonic() > next_fault and (name := hurt.once()):
                met += 1
                tally.faults[name] += 1
                print(f"{time.strftime('%H:%M:%S')} {chain.directory.name}: {name}", flush=True)
                next_fault = time.monotonic() + chance.uniform(3, 30)
            time.sleep(0.5)
    finally:
        nature.close()


def compared(chain: Chain, other: Path) -> None:
    """Fail unless a chain has made what an undisturbed one has."""
    states = chain.states()
    assert states["train"] == ["COMPLETED"], f"{states}\n{chain.words()}"
    index, theirs = ((each / "data" / "index.json").read_bytes() for each in (chain.directory, other))
    assert index == theirs, "other shards"
    equals(chain.directory, other, steps=STEPS)


def main() -> int:
    """Print what happened; return 1 if anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--report", type=Path)
    asked = parser.parse_args()
    began, tally = time.monotonic(), Tally()
    with tempfile.TemporaryDirectory(prefix="slurm-soak-") as name:
        folder = Path(name)
        cluster = Cluster(folder / "cluster", os.getpid() % 250)
        cluster.control("up")
        try:
            straight = Chain(cluster, made_texts(folder / "some text"), folder / "straight")
            live(straight, tally, random.Random(0), faults=0)
            compared(straight, straight.directory)
            while time.monotonic() - began < 60 * asked.minutes:
                seed = f"{asked.seed}/{tally.chains}"
                chain = Chain(cluster, folder / "some text", folder / f"chain {tally.chains}")
                try:
                    live(chain, tally, random.Random(seed), faults=MOST_FAULTS)
                    compared(chain, straight.directory)
                except AssertionError as error:
                    tally.wrong.append(f"chain {tally.chains} (seed {seed}): {error}\n{chain.words()}")
                tally.chains += 1
                tally.starts += len(
                    [line for line in read(chain.directory / "attempts.jsonl") if line["event"] == "launch"]
                )
                tell(asked, tally, time.monotonic() - began)
                cluster.mend()
        finally:
            cluster.control("down")
    print("\n".join(tally.wrong) or "nothing was lost, taken twice or changed", flush=True)
    return 1 if tally.wrong else 0


def tell(asked: argparse.Namespace, tally: Tally, seconds: float) -> None:
    """Write what has happened so far to the report, and to the terminal."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    # Without a configuration, which sinfo asks for even then.
    version = subprocess.check_output(["slurmctld", "-V"], text=True, env={"PATH": "/usr/sbin:/usr/bin"})
    lines = [
        f"command   python tests/slurm/cluster_soak.py {' '.join(sys.argv[1:])}",
        f"seed      {asked.seed}",
        f"machine   {platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        f"software  {version.strip()}, four nodes of tests/slurm/cluster",
        f"commit    {commit}",
        f"minutes   {seconds / 60:.0f}",
        "",
        str(tally),
        *(each.splitlines()[0] for each in tally.wrong),
        *([] if tally.wrong else ["nothing was lost, taken twice or changed"]),
    ]
    if asked.report:
        asked.report.write_text("\n".join(lines) + "\n")
    print(tally, flush=True)


if __name__ == "__main__":
    sys.exit(main())
