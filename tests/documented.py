"""Which commands the pages print: those in fenced blocks and between back-quotes, a line each, in order."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
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
    "pytest",
    "hf",
    "for",
    "CUDA_VISIBLE_DEVICES=0",
    "tensorboard",
    "export",
    "tests/slurm/cluster",
    "scontrol",
    "touch",
)
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
_SHELL = ("", "bash", "sh")
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
        at = self._module_at
        return self.words[at] if at else None

    @property
    def settings(self) -> list[str]:
        """What stands behind the module."""
        at = self._module_at
        return self.words[at + 1 :] if at else []

    @property
    def _module_at(self) -> int:
        """The place of the module among the words; 0 if there is none."""
        words = self.words
        return next((at for at, word in enumerate(words) if at and words[at - 1] in ("-m", "--module")), 0)


def hidden(page: Path) -> list[str]:
    """Return the commands that stand in a block of another kind, where `commands` does not look."""
    blocks = [match for match in _FENCE.finditer(page.read_text()) if match["language"] not in _SHELL]
    return [line for match in blocks for line in match["text"].splitlines() if _is_command(line)]


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
    if block["language"] not in _SHELL or not any(_is_command(line) for line in lines[:2]):
        return
    for line in lines:
        yield from (part.strip() for part in line.split(" && ") if _is_command(part.strip()))


def _is_command(text: str) -> bool:
    words = text.split()
    return len(words) > 1 and words[0] in _PROGRAMS
