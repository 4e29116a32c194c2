"""What this machine offers to a run, and what it lacks: one finding a line, each with the way out.

Nothing here changes the machine but for a probe file, written and removed in the folder that is asked about.
"""

import errno
import fcntl
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
import torch

from conf.exits import DatasetError
from data_prep.tokenizer import load_tokenizer

DISTRIBUTION = "gpt2-pretrain"
_DEVELOPERS = "dev"  # the one extra that serves no run
_OLDEST, _NEWEST = (3, 11), (3, 13)
# NCCL and gloo put their buffers there; Docker's default of 64 MB is too small for either.
_LEAST_SHARED_BYTES = 1 << 30
# Three checkpoints of the smallest GPT-2: 3 × 124M × storage.retention.BYTES_PER_PARAMETER, rounded up.
_LEAST_FREE_BYTES = 5 << 30
_LEAST_OPEN_FILES = 4096
_BFLOAT16_CAPABILITY = (8, 0)  # Ampere; before it, bf16 is emulated
_ANSWER_SECONDS = 20.0
# What a requirement says: its name, its pinned version, and the extra that asks for it.
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)[^=;]*==(?P<version>[^;\s]+)(?:.*extra == \"(?P<extra>\w+)\")?")


@dataclass(frozen=True)
class Finding:
    """One thing about the machine: "ok", a "note" (it works, with a limit) or a "fault" (it will not)."""

    level: str
    subject: str
    text: str


Finder = Callable[[Path], Iterator[Finding]]


def findings(folder: Path) -> Iterator[Finding]:
    """Yield everything that is worth knowing before a run in `folder`."""
    for finder in FINDERS:
        yield from finder(folder)


def interpreter(_: Path) -> Iterator[Finding]:
    """Tell whether this Python, and each pinned package, is one that the project was tested with."""
    version = sys.version_info[:2]
    text = f"{sys.version.split()[0]} in {sys.prefix}"
    if _OLDEST <= version <= _NEWEST:
        yield Finding("ok", "python", text)
    else:
        yield Finding("fault", "python", f"{text}; use 3.11 to 3.13: make PYTHON=python3.11 setup")
    others = [
        f"{name} {found or 'is missing'} instead of {wanted}"
        for name, wanted in _pins()
        if (found := _installed(name)) != wanted
    ]
    if others:
        yield Finding("fault", "packages", f"{', '.join(others)}; install the pinned ones: make setup")
    else:
        yield Finding("ok", "packages", f"torch {torch.__version__}, all {len(_pins())} pins as tested")
    yield Finding("ok", "extras", _extras())


def gpus(_: Path) -> Iterator[Finding]:
    """Tell which GPUs torch can use, and whether the machine has some that it cannot."""
    seen = _answer("nvidia-smi", "-L").count("GPU ")
    if not torch.cuda.is_available():
        if seen:
            build = torch.version.cuda
            why = f"needs a newer driver for CUDA {build}" if build else "is a build for CPUs"
            yield Finding(
                "fault",
                "gpus",
                f"nvidia-smi lists {seen}, but torch {torch.__version__} {why}; run make setup",
            )
        else:
            yield Finding(
                "note", "gpus", "none: training runs on the CPU, which serves demo, smoke and tests"
            )
        return
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        text = f"{number}: {facts.name}, {facts.total_memory / 1e9:.0f} GB"
        if (facts.major, facts.minor) < _BFLOAT16_CAPABILITY:
            yield Finding("note", "gpus", f"{text}; no bf16 in hardware, use precision=fp32")
        else:
            yield Finding("ok", "gpus", text)
    if torch.cuda.device_count() < seen:
        yield Finding(
            "note", "gpus", f"{seen - torch.cuda.device_count()} more are hidden by CUDA_VISIBLE_DEVICES"
        )


def processors(_: Path) -> Iterator[Finding]:
    """Tell how many cores and how much memory a process here may use, and how they meet."""
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory()
    yield Finding(
        "ok",
        "cores",
        f"{cores} usable, {memory.total / 1e9:.0f} GB memory, {memory.available / 1e9:.0f} free",
    )
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    if shared < _LEAST_SHARED_BYTES:
        way_out = "start the container with --ipc=host or --shm-size=8g"
        yield Finding(
            "note", "memory", f"/dev/shm has {shared / 1e6:.0f} MB; ranks on one node may fail, {way_out}"
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _LEAST_OPEN_FILES:
        yield Finding(
            "note",
            "files",
            f"a process may open {soft} files; ulimit -n {min(hard, 1 << 16)} before you start",
        )


def compilers(_: Path) -> Iterator[Finding]:
    """Tell whether torch.compile can work: it needs a C++ compiler, and on GPUs Python's headers."""
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    headers = Path(sysconfig.get_paths()["include"], "Python.h").exists()
    if found and headers:
        yield Finding("ok", "compiler", f"{found}, Python's headers")
    else:
        lacks = "no C++ compiler" if not found else f"{found}, but no Python.h"
        package = "g++" if not found else "python3-dev"
        yield Finding("note", "compiler", f"{lacks}: compile=true will fail; apt-get install {package}")


def folder_for_runs(folder: Path) -> Iterator[Finding]:
    """Tell whether `folder` can hold runs: written, locked, synced, and with space."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        _probe(existing)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP):
            yield Finding(
                "note", "disk", f"{existing} has no file locks; the lease on a run works by its file alone"
            )
        else:
            yield Finding("fault", "disk", f"{existing}: {error.strerror}; choose another: folder=DIR")
            return
    free = shutil.disk_usage(existing).free
    text = f"{existing} has {free / 1e9:.0f} GB free"
    if free < _LEAST_FREE_BYTES:
        yield Finding(
            "note", "disk", f"{text}; three checkpoints of GPT-2 124M take {_LEAST_FREE_BYTES / 1e9:.0f}"
        )
    else:
        yield Finding("ok", "disk", f"{text}, can be written and locked")


def vocabulary(_: Path) -> Iterator[Finding]:
    """Tell whether the GPT-2 vocabulary is here, and OpenAI's own."""
    try:
        load_tokenizer()
    except DatasetError as error:
        yield Finding("fault", "vocabulary", str(error))
    else:
        yield Finding("ok", "vocabulary", "GPT-2's, with OpenAI's hash, without the network")


def network(_: Path) -> Iterator[Finding]:
    """Tell whether ranks on other nodes can find this one by its name."""
    name = socket.gethostname()
    try:
        yield Finding("ok", "network", f"{name} is {socket.gethostbyname(name)}")
    except OSError:
        way_out = "add it to /etc/hosts, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface"
        yield Finding(
            "note", "network", f"the name {name} has no address: runs over several ranks may fail; {way_out}"
        )


def scheduler(_: Path) -> Iterator[Finding]:
    """Tell whether jobs can be submitted from here."""
    if not shutil.which("sbatch"):
        yield Finding("note", "slurm", "no sbatch here: python -m slurm.submit works on a login node only")
        return
    partitions = _answer("sinfo", "--noheader", "--format=%P").split()
    if partitions:
        yield Finding("ok", "slurm", f"partitions {', '.join(partitions)}")
    else:
        yield Finding("note", "slurm", "sbatch is here, but sinfo shows no partition: is the controller up?")


def wandb_account(_: Path) -> Iterator[Finding]:
    """Tell whether runs will appear in Weights & Biases at once, or wait on disk."""
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if os.environ.get("WANDB_API_KEY") or (netrc.is_file() and "wandb" in netrc.read_text(errors="replace")):
        yield Finding("ok", "wandb", "an account is known")
    else:
        yield Finding(
            "note", "wandb", "no account: runs are kept on disk for `wandb sync`; `wandb login` changes it"
        )


FINDERS: tuple[Finder, ...] = (
    interpreter,
    gpus,
    processors,
    compilers,
    folder_for_runs,
    vocabulary,
    network,
    scheduler,
    wandb_account,
)


def _pins(extra: str | None = None) -> list[tuple[str, str]]:
    """Return (name, version) of each package that this installation pins, or that an extra adds."""
    found = [_REQUIREMENT.match(text) for text in metadata.requires(DISTRIBUTION) or []]
    return [(pin["name"], pin["version"]) for pin in found if pin and pin["extra"] == extra]


def _extras() -> str:
    """Return which extras are installed in whole, and which packages the others lack."""
    names = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    lacking = {
        extra: [name for name, _ in _pins(extra) if not _installed(name)]
        for extra in names
        if extra != _DEVELOPERS
    }
    whole = [extra for extra, packages in lacking.items() if not packages]
    absent = [f"{extra} ({', '.join(packages)})" for extra, packages in lacking.items() if packages]
    way_out = f"pip install '{DISTRIBUTION}[NAME]' adds: {', '.join(absent)}" if absent else ""
    return "; ".join(filter(None, (", ".join(whole) or "none", way_out)))


def _installed(package: str) -> str | None:
    """Return a package's version without its build (torch's 2.13.0+cpu is 2.13.0), or None."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def _answer(*command: str) -> str:
    """Return what a program prints; "" if there is none, or it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _probe(folder: Path) -> None:
    """Write, lock and sync a file in `folder`, as a run does; raise OSError for what does not work."""
    with tempfile.NamedTemporaryFile(prefix=".doctor-", dir=folder) as file:
        file.write(b"probe")
        file.flush()
        os.fsync(file.fileno())
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
