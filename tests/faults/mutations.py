"""Whether any damage to a checkpoint on disk gets past the load: thousands of random ones, by seed.

cd tests && python -m faults.mutations [COUNT] [SEED]
"""

import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from conf.exits import NoCheckpointError
from faults import job, scratch
from pretrain.storage import commit

_RANKS = 3
# Steps 4, 8 and 9 are what the schedule leaves; damage goes to the newest of them, or to more.
_LEFT = ("step-00000009", "step-00000008", "step-00000004")
_FILES = (*(f"rank{rank}.bin" for rank in range(_RANKS)), "MANIFEST.json")

Damage = Callable[[random.Random, Path, Path], None]


def _flip(draw: random.Random, victim: Path, other: Path) -> None:
    data = bytearray(victim.read_bytes())
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    victim.write_bytes(data)


def _truncate(draw: random.Random, victim: Path, other: Path) -> None:
    os.truncate(victim, draw.randrange(victim.stat().st_size))


def _zero(draw: random.Random, victim: Path, other: Path) -> None:
    data = bytearray(victim.read_bytes())
    start = draw.randrange(len(data))
    length = min(draw.choice((1, 16, 512, 4096)), len(data) - start)
    data[start : start + length] = bytes(length)
    victim.write_bytes(data)


def _extend(draw: random.Random, victim: Path, other: Path) -> None:
    victim.write_bytes(victim.read_bytes() + draw.choice((b"\0", b"\n", b" ", b"x" * 512)))


def _remove(draw: random.Random, victim: Path, other: Path) -> None:
    victim.unlink()


def _add(draw: random.Random, victim: Path, other: Path) -> None:
    name = draw.choice(("rank9.bin", "rank0.bin.tmp", "latest", ".hidden", "MANIFEST.json~"))
    victim.with_name(name).write_bytes(draw.choice((b"", victim.read_bytes())))


def _from_other_step(draw: random.Random, victim: Path, other: Path) -> None:
    shutil.copyfile(other / victim.name, victim)


def _swap(draw: random.Random, victim: Path, other: Path) -> None:
    second = victim.with_name(draw.choice([name for name in _FILES if name != victim.name]))
    spare = victim.with_name("spare")
    victim.rename(spare)
    second.rename(victim)
    spare.rename(second)


def _rename(draw: random.Random, victim: Path, other: Path) -> None:
    victim.rename(victim.with_name(draw.choice(("rank7.bin", "RANK0.bin", "rank0.bin "))))


def _copy_over(draw: random.Random, victim: Path, other: Path) -> None:
    second = draw.choice([name for name in _FILES if name != victim.name])
    shutil.copyfile(victim.with_name(second), victim)


def _other_kind(draw: random.Random, victim: Path, other: Path) -> None:
    kept = victim.rename(victim.parent.parent / f"{victim.parent.name}-{victim.name}-kept")
    draw.choice((victim.mkdir, lambda: os.mkfifo(victim), lambda: victim.symlink_to(kept)))()


def _whole_other_step(draw: random.Random, victim: Path, other: Path) -> None:
    shutil.rmtree(victim.parent)
    shutil.copytree(other, victim.parent)


def _insert(draw: random.Random, victim: Path, other: Path) -> None:
    data, place = victim.read_bytes(), draw.randrange(victim.stat().st_size)
    victim.write_bytes(data[:place] + bytes([draw.randrange(256)]) + data[place:-1])


DAMAGES: tuple[Damage, ...] = (
    *(_flip, _flip, _flip, _flip, _truncate, _truncate, _zero, _zero, _insert, _extend, _remove, _add),
    *(_from_other_step, _swap, _rename, _copy_over, _other_kind, _whole_other_step),
)


def mutate(count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Damage `count` directories; return how often each damage was seen, and what went wrong."""
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    with scratch.directory() as base:
        writers = [job.local_writer(rank) for rank in range(_RANKS)]
        assert job.run(base / "run", writers, lambda what, place: None) == 0
        good = base / "run" / "checkpoints"
        for number in range(count):
            draw = random.Random(f"{seed}/{number}")
            root = base / "damaged"
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(good, root)
            done = _damage(draw, root, good)
            seen.update(done.values())
            if found := _silence(root, set(done)):
                wrong.append(f"seed {seed}/{number} {done}: {found}")
    return seen, wrong


def _damage(draw: random.Random, root: Path, good: Path) -> dict[str, str]:
    """Damage the newest checkpoint, and now and then older ones too; return name → damage."""
    hit = _LEFT[: draw.choice((1, 1, 1, 1, 1, 1, 1, 2, 2, 3))]
    done = {}
    for name in hit:
        before = _bytes_of(root / name)
        while _bytes_of(root / name) == before:  # zeroing a zero is no damage
            damage = draw.choice(DAMAGES)
            other = good / draw.choice([each for each in _LEFT if each != name])
            damage(draw, root / name / draw.choice(_FILES), other)
        done[name] = damage.__name__.strip("_")
    return done


def _bytes_of(path: Path) -> dict[str, bytes | str]:
    def content(file: Path) -> bytes | str:
        return file.read_bytes() if file.is_file() and not file.is_symlink() else "no plain file"

    return {file.name: content(file) for file in path.iterdir()}


def _silence(root: Path, damaged: set[str]) -> str | None:
    """Return what the load got wrong: took damage for good, good for damage, or went on in silence."""
    reported: list[str] = []
    expected = [name for name in _LEFT if name not in damaged]
    try:
        found = commit.newest_valid(root, **job.RUN, on_rejected=lambda path, why: reported.append(path.name))
    except NoCheckpointError:
        return f"gave up although {expected} is good" if expected else None
    except Exception as error:  # whatever it is, it is the finding
        return f"{type(error).__name__}: {error}"
    if found is None or not expected or found.path.name != expected[0]:
        return f"took {found and found.path.name}, {expected} is good"
    job.saved_in(found)
    if set(reported) != damaged:
        return f"reported {reported}"
    return None


def main() -> int:
    """Print the table; return 1 if any damage was silent."""
    given = [int(each) for each in sys.argv[1:]]
    count, seed = [*given, *(10_000, 0)[len(given) :]]
    began = time.monotonic()
    seen, wrong = mutate(count, seed)
    print(*(f"{name:16} {times}" for name, times in sorted(seen.items())), sep="\n")
    print(f"{count} mutations, seed {seed}: {len(wrong)} silent or wrong, {time.monotonic() - began:.0f} s")
    print(*wrong[:10], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
