"""Which commands the pages print: those in fenced blocks and between back-quotes, a line each, in order."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [page for folder in ("slurm", "benchmarks") for page in sorted((ROOT / folder).glob("*.md"))]

# A block of commands begins with one of these, as does a command between back-quotes.
_PROGRAMS = (
    "python",
    ".venv/bin/python",
    "torchrun",
    "deepspeed",
    "make",
    "git",
    "sbatch",
    "srun",
    "scancel",
    "ssh",
)
_PROGRAMS += (
    "source",
    "wandb",
    "kill",
    "docker",
    "apptainer",
    "pip",
    "lm_eval",
    "for",
    "CUDA_VISIBLE_DEVICES=0",
    "tensorboard",
)
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """One command as a page prints it."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """The command as a shell would split it."""
        return shlex.split(self.text, comments=True)

    @property
    def module(self) -> str | None:
        """The module that it runs with -m, the launcher's own options passed over."""
        words = self.words
        return words[words.index("-m") + 1] if "-m" in words[:-1] else None

    @property
    def settings(self) -> list[str]:
        """What stands behind the module."""
        words = self.words
        return words[words.index("-m") + 2 :] if self.module else []


def commands(page: Path, root: Path = ROOT) -> list[Command]:
    """Return the page's commands, from its blocks and its lines, in their order."""
    text = page.read_text()
    found = [(match.start(), line) for match in _FENCE.finditer(text) for line in _lines(match)]
    outside = _FENCE.sub(lambda match: " " * len(match[0]), text)
    found += [(match.start(), match[1]) for match in _INLINE.finditer(outside) if _is_command(match[1])]
    name = str(page.relative_to(root))
    return [Command(name, line) for _, line in sorted(found, key=lambda each: each[0])]


def _lines(block: re.Match[str]) -> Iterator[str]:
    """Yield the commands of a block of them; nothing of a diagram, a listing or a program's output."""
    lines = block["text"].replace("\\\n", " ").splitlines()
    if block["language"] not in ("", "bash", "sh") or not any(_is_command(line) for line in lines[:2]):
        return
    for line in lines:
        yield from (part.strip() for part in line.split(" && ") if _is_command(part.strip()))


def _is_command(text: str) -> bool:
    words = text.split()
    return len(words) > 1 and words[0] in _PROGRAMS
