"""Whether the crash tests have teeth: each planted bug below must be caught by at least one of them.

    cd tests && python -m faults.mutants           all of them, as a table
    cd tests && python -m faults.mutants --run N   one of them, in this process (used by the above)

A mutant is the real source with one passage replaced, in a copy of the packages.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults.mutant_table import MUTANTS, Mutant

_REPOSITORY = Path(__file__).resolve().parents[2]
_MODULES = ("commit", "durable", "faults", "lease", "manifest", "recovery", "retention")
_WORKERS = 2


def planted(mutant: Mutant, where: Path) -> None:
    """Copy the packages that the crash tests need to `where`, with the bug in them."""
    for package in ("pretrain", "pretrain/storage", "conf"):
        (where / package).mkdir()
        (where / package / "__init__.py").touch()
    (where / "conf" / "exits.py").write_text((_REPOSITORY / "conf" / "exits.py").read_text())
    for module in _MODULES:
        source = (_REPOSITORY / "pretrain" / "storage" / f"{module}.py").read_text()
        if module == mutant.module:
            if source.count(mutant.old) != 1:
                raise ValueError(f"{mutant.bug}: its passage occurs {source.count(mutant.old)} times")
            source = source.replace(mutant.old, mutant.new)
        (where / "pretrain" / "storage" / f"{module}.py").write_text(source)


def _checks() -> dict[str, Callable[[], list[str]]]:
    """Return the crash tests, thinned, cheapest first; each returns its findings."""
    from faults import cases, forked, model, mutations, scratch

    def power(reordered: bool) -> list[str]:
        for _, log in model.runs((1, 2), range(1)):
            with scratch.directory() as base:
                if found := model.explore(log, base / "disk", reordered=reordered, stop=True).violations:
                    return found
        return []

    def kills() -> list[str]:
        places = range(len(forked.calls_of(2)))
        return _first(forked.forked(place, "KILL", world_size=2) for place in places)

    def errors() -> list[str]:
        calls = forked.calls_of(1)
        failing = [place for place, name in enumerate(calls) if name in forked.FAILING]
        writes = [place for place, name in enumerate(calls) if name == "write"]
        return _first(forked.forked(place, "short") for place in writes) or _first(
            forked.forked(place, "EIO") for place in failing
        )

    return {
        "small cases": cases.findings,
        "power loss": lambda: power(False),
        "mutations": lambda: mutations.mutate(200, 0)[1],
        "power loss, any subset": lambda: power(True),
        "kills": kills,
        "errors": errors,
    }


def _first(findings: Iterable[str | None]) -> list[str]:
    return list(itertools.islice(filter(None, findings), 1))


def run_one(number: int) -> int:
    """Run the crash tests against one mutant in this process; print who caught it."""
    with tempfile.TemporaryDirectory() as where:
        planted(MUTANTS[number], Path(where))
        sys.path.insert(0, where)
        for name, check in _checks().items():
            try:
                found = next((each for each in check() if each), None)
            except Exception as error:  # a mutant may break anything
                found = f"{type(error).__name__}: {error}"
            if found:
                print(f"{name} | {' '.join(found.split())[:110]}")
                return 0
    print("SURVIVED |")
    return 1


def caught(number: int) -> str:
    """Return who caught mutant `number`, or "SURVIVED"."""
    command = [sys.executable, "-m", "faults.mutants", "--run", str(number)]
    done = subprocess.run(
        command,
        cwd=_REPOSITORY / "tests",
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise RuntimeError(f"{MUTANTS[number].bug}: {done.stderr[-500:]}")
    return done.stdout.strip()


def survivors() -> list[str]:
    """Return the bugs that nothing caught; print who caught the others."""
    survived = []
    with ThreadPoolExecutor(_WORKERS) as pool:
        for mutant, by in zip(MUTANTS, pool.map(caught, range(len(MUTANTS))), strict=True):
            print(f"{mutant.bug} | {by}", flush=True)
            if by.startswith("SURVIVED"):
                survived.append(mutant.bug)
    return survived


def main() -> int:
    """Print the table; return 1 if any mutant survived."""
    if sys.argv[1:2] == ["--run"]:
        return run_one(int(sys.argv[2]))
    began = time.monotonic()
    survived = survivors()
    print(f"{len(MUTANTS)} mutants, {len(survived)} survived, {time.monotonic() - began:.0f} s")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
