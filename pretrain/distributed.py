"""Who the ranks are and how they agree: the only place that reads the launcher's environment.

Text travels between ranks as bytes, never pickled, on a gloo group that needs no device.
"""

import contextlib
import json
import os
import re
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from conf.exits import UserError

# torch 2.13 announces the future of a function that DeepSpeed calls in every step.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")

# Where the ranks of a SLURM step meet if nobody has chosen a port: below Linux's ephemeral ones.
_PORTS = range(20000, 32000)
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device
    control: dist.ProcessGroup  # gloo: for words, not for gradients

    @property
    def primary(self) -> bool:
        """Say whether this is rank 0, which alone writes what all share."""
        return self.rank == 0


def launched_rank() -> tuple[int, int]:
    """Return (rank, world size) as torchrun or srun says; a process without a launcher is a world of one."""
    if "RANK" not in os.environ and "SLURM_STEP_NUM_TASKS" in os.environ:
        for name, value in step_environment(os.environ).items():
            os.environ.setdefault(name, value)
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def job_ends_at() -> float | None:
    """Return the Unix time at which the scheduler will end this job; None if nobody says so."""
    text = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(text) if text.isdigit() else None


def step_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """Return in torch's names what SLURM tells a task of a step; ranks meet on the step's first node.

    A batch script, and `python` in one without srun, is no task of a step: its SLURM_NTASKS ranks would
    wait for each other for ever.
    """
    first = re.split(r",(?![^[]*\])", slurm["SLURM_STEP_NODELIST"])[0]  # n[1-3,5],m1: not in brackets
    port = _PORTS.start + int(slurm["SLURM_JOB_ID"]) % len(_PORTS)
    return {
        "RANK": slurm["SLURM_PROCID"],
        "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "MASTER_ADDR": re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first),
        "MASTER_PORT": str(port),
    }


@contextlib.contextmanager
def joined(timeout: timedelta = timedelta(minutes=30)) -> Iterator[World]:
    """Join the process group for the length of the block: NCCL where there are GPUs, else gloo."""
    rank, size = launched_rank()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    for name, value in (("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", local_rank)):
        os.environ.setdefault(name, str(value))  # DeepSpeed reads them too, and else asks for MPI
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    store = _meeting_place(os.environ, rank, size, timeout)
    dist.init_process_group(
        "nccl" if cuda else "gloo", store=store, rank=rank, world_size=size, timeout=timeout
    )
    try:
        control = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(control, dist.ProcessGroup)
        yield World(rank, size, device, control)
        # Leave together: a gloo thread that loses its peer while it winds down aborts the process.
        dist.barrier(group=control)
    finally:
        dist.destroy_process_group()


def _meeting_place(
    environment: Mapping[str, str], rank: int, size: int, timeout: timedelta
) -> dist.Store | None:  # pyright: ignore[reportPrivateImportUsage]
    """Return the store by which the ranks find each other; None leaves it to torch, and to torchrun.

    torch's own listens on every interface, and asks nobody for a password (pytorch #173909). Ranks on one
    host need no more than its loopback; a world of one needs no port, so none can be taken or left behind.
    """
    if size == 1:
        return dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or not _on_one_host(environment, size):
        return None
    port = int(environment["MASTER_PORT"])
    listener = socket.create_server((_LOOPBACK, port)).detach() if rank == 0 else None
    return dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        _LOOPBACK, port, size, is_master=rank == 0, timeout=timeout, master_listen_fd=listener
    )


def _on_one_host(environment: Mapping[str, str], size: int) -> bool:
    """Say whether all ranks are surely on this host."""
    master = environment.get("MASTER_ADDR", "")
    step = environment.get("SLURM_STEP_NUM_NODES"), environment.get("SLURM_STEP_NUM_TASKS")
    return master == "localhost" or master.startswith("127.") or step == ("1", str(size))


def broadcast_text(world: World, text: str | None) -> str:
    """Return rank 0's `text` on every rank; the others pass None."""
    data = torch.tensor(list((text or "").encode()), dtype=torch.uint8)
    length = torch.tensor([len(data)])
    dist.broadcast(length, src=0, group=world.control)
    if not world.primary:
        data = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(data, src=0, group=world.control)
    return bytes(data.tolist()).decode()


def on_primary(world: World, action: Callable[[], str]) -> str:
    """Return on every rank what `action` returns on rank 0, where alone it runs.

    If it raises a UserError, all ranks leave with its exit code, and rank 0 says why. An OSError is
    raised on every rank, so that all can go on together.
    """
    outcome: dict[str, str | int] = {}
    if world.primary:
        try:
            outcome = {"value": action()}
        except UserError as error:
            broadcast_text(world, json.dumps({"exit": int(error.code)}))
            raise
        except OSError as error:
            outcome = {
                "errno": error.errno or 0,
                "text": error.strerror or str(error),
                "file": "" if error.filename is None else str(error.filename),
            }
    return _value(json.loads(broadcast_text(world, json.dumps(outcome))))


def with_help(
    world: World, action: Callable[[Callable[[str], list[str]]], str], help_with: Callable[[str], str]
) -> str:
    """Return on every rank what `action(ask)` returns on rank 0.

    `ask(text)` returns what `help_with(text)` returns on every rank, which must not raise. Raises as
    `on_primary` does.
    """

    def ask(text: str) -> list[str]:
        broadcast_text(world, json.dumps({"ask": text}))
        return gather_texts(world, help_with(text))

    if world.primary:
        return on_primary(world, lambda: action(ask))
    while "ask" in (told := json.loads(broadcast_text(world, None))):
        gather_texts(world, help_with(told["ask"]))
    return _value(told)


def _value(outcome: dict[str, Any]) -> str:
    if "exit" in outcome:
        sys.exit(outcome["exit"])
    if "errno" in outcome:
        raise OSError(outcome["errno"], outcome["text"], outcome["file"] or None)
    return str(outcome["value"])


def gather_texts(world: World, text: str) -> list[str]:
    """Return every rank's `text`, in the order of ranks, on every rank."""
    data = torch.tensor(list(text.encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world.size)]
    dist.all_gather(lengths, torch.tensor([len(data)]), group=world.control)
    longest = max(int(length) for length in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(data)] = data
    gathered = [torch.zeros(longest, dtype=torch.uint8) for _ in range(world.size)]
    dist.all_gather(gathered, padded, group=world.control)
    return [bytes(part[: int(n)].tolist()).decode() for part, n in zip(gathered, lengths, strict=True)]


def summed(world: World, *values: float) -> list[float]:
    """Return each value summed over the ranks, in double precision."""
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total, group=world.control)
    return total.tolist()


def largest(world: World, *values: float) -> list[float]:
    """Return each value's maximum over the ranks."""
    total = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(total, op=dist.ReduceOp.MAX, group=world.control)
    return total.tolist()


class Vote:
    """A few questions a step, such as "does any rank want to stop?", with the same answers on every rank.

    The vote travels while the next step computes, so a step never waits for it; the answers to step
    k's questions are read at step k + 1.
    """

    def __init__(self, world: World, questions: int) -> None:
        self._world = world
        self._answers = (0,) * questions
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def cast(self, *votes: int) -> tuple[int, ...]:
        """Cast this step's votes, 0 for no; return the largest votes of the step before."""
        answers = self.settle()
        ballot = torch.tensor(votes)
        work = dist.all_reduce(ballot, op=dist.ReduceOp.MAX, group=self._world.control, async_op=True)
        assert work is not None
        self._pending = (work, ballot)
        return answers

    def settle(self) -> tuple[int, ...]:
        """Return the answers that are still under way; every rank must call this at the same place."""
        if self._pending is None:
            return self._answers
        work, ballot = self._pending
        self._pending = None
        work.wait()
        return tuple(ballot.tolist())
