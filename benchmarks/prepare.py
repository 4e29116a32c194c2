"""Compare data preparation with the loops that others use, in CPU seconds on one corpus.

usage: python benchmarks/prepare.py [MEGABYTES] [ROUNDS] [--only=WORDS] [--peers=PYTHON] [--results=FILE]

The contenders (benchmarks/prepare_contenders.py) take turns, so that a busy machine is busy for all of them.
Each runs in a process of its own, whose user and system time, imports and child processes included, is
counted; the median over the rounds is shown. Contenders whose package is not installed are left out; PYTHON
is another interpreter in which to look for it. --only takes contenders that have one of the comma-separated
WORDS in their name. --results adds every single figure to a file of JSON lines.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from prepare_contenders import CONTENDERS

_PROGRAM = Path(__file__).with_name("prepare_contenders.py")
_ROOT = _PROGRAM.parents[1]
_SUFFIXES = {".py", ".txt", ".rst", ".md"}


@dataclass(frozen=True)
class Cost:
    """What one run of a contender took."""

    cpu_seconds: float
    peak_mib: float  # of its largest process


def main(arguments: argparse.Namespace) -> None:
    """Print megabytes of text per CPU second of each contender."""
    wanted = arguments.only.split(",")
    contenders = {
        name: python
        for name, (_, package) in CONTENDERS.items()
        if any(word in name for word in wanted) and (python := _interpreter(package, arguments.peers))
    }
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.jsonl")
        text_bytes = write_corpus(corpus, arguments.megabytes * 1_000_000)
        for turn, (name, python) in itertools.product(range(arguments.rounds), contenders.items()):
            work = Path(folder, f"work-{turn}")
            work.mkdir()
            cost = cost_of([python, str(_PROGRAM), name, str(corpus), str(work / "output")])
            costs[name].append(cost)
            shutil.rmtree(work)
            if arguments.results:
                _record(Path(arguments.results), name, text_bytes, cost)
    _print_table(costs, text_bytes, arguments.rounds)


def _print_table(costs: dict[str, list[Cost]], text_bytes: int, rounds: int) -> None:
    print(f"{text_bytes / 1e6:.0f} MB of source text, {rounds} rounds")
    print(f"{'':42} {'MB/CPU-s':>9} {'ratio':>6} {'peak MiB':>9}")
    medians = {name: statistics.median(cost.cpu_seconds for cost in found) for name, found in costs.items()}
    first = medians[next(iter(medians))]
    for name, median in medians.items():
        peak = max(cost.peak_mib for cost in costs[name])
        print(f"{name:42} {text_bytes / 1e6 / median:9.2f} {first / median:6.2f} {peak:9.0f}")


def _interpreter(package: str, peers: str | None) -> str | None:
    """Return the first interpreter that has the package."""
    question = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
    for python in filter(None, (sys.executable, peers)):
        if subprocess.run([python, "-c", question], check=False).returncode == 0:
            return python
    return None


def _record(path: Path, name: str, text_bytes: int, cost: Cost) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    line = {
        "contender": name,
        "text_bytes": text_bytes,
        "cpu_seconds": round(cost.cpu_seconds, 2),
        "peak_mib": round(cost.peak_mib),
        "commit": commit.stdout.strip(),
        "processors": os.cpu_count(),
        "processor": _processor(),
        "load": round(os.getloadavg()[0], 1),
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )


def write_corpus(path: Path, wanted: int) -> int:
    """Write about `wanted` bytes of text as JSON lines, no two alike; return how many bytes of text.

    The text is what lies beside this interpreter: its library and the installed packages, repeated under
    another first line when it does not suffice.
    """
    files = [file for file in Path(sysconfig.get_path("stdlib")).rglob("*") if file.suffix in _SUFFIXES]
    files += [file for file in Path(sysconfig.get_path("purelib")).rglob("*") if file.suffix in _SUFFIXES]
    written, seen = 0, set()
    with path.open("wb") as lines:
        for number, file in enumerate(itertools.cycle(sorted(set(files)))):
            try:
                text = file.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue
            if not text or hash(text) in seen:
                text = f"# {number}\n{text}"
            seen.add(hash(text))
            lines.write(json.dumps({"text": text}).encode() + b"\n")
            written += len(text.encode())
            if written >= wanted:
                break
    return written


def cost_of(command: list[str]) -> Cost:
    """Run a program to its end; return its user and system time and its peak memory."""
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as job:
        assert job.stderr is not None
        message = job.stderr.read()
        _, status, usage = os.wait4(job.pid, 0)
        job.returncode = os.waitstatus_to_exitcode(status)
    if job.returncode:
        sys.exit(message.decode())
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("megabytes", type=int, nargs="?", default=100)
    parser.add_argument("rounds", type=int, nargs="?", default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--peers")
    parser.add_argument("--results")
    main(parser.parse_args())
