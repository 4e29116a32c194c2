"""Train as `python -m pretrain.train` does, with the faults that PLANT names: what@step#rank, by commas.

The step is the number of optimizer steps done when it strikes (of a spike, of sequences consumed); without
#rank it strikes all ranks. As
in the command itself, the parent of a rank imports nothing heavy.
"""

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pretrain.guard.heartbeat import Page
from pretrain.guard.watchdog import watched
from pretrain.watching.last_words import last_words

FOR_EVER = 10**6
# <sched.h>, <sys/mount.h>
CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_PRIVATE = 1 << 17, 1 << 28, 1 << 14, 1 << 18


def main(page: Page) -> None:
    from conf.command import run as run_command
    from pretrain.attempt import main as attempt

    for text in filter(None, os.environ.get("PLANT", "").split(",")):
        found = re.fullmatch(r"(?P<what>[a-z-]+)@(?P<step>\d+)(#(?P<rank>\d+))?", text)
        assert found, text
        if found["rank"] in (None, os.environ["RANK"]):
            PLANTS[found["what"]](int(found["step"]))
    run_command(partial(attempt, page=page), name="pretrain.train", config="train", usage=None)


def before(owner: type, name: str, step: int, act: Callable, step_of: Callable) -> None:
    """Have `act(self)` done before the method `name` runs at `step`, once."""
    original = getattr(owner, name)
    done = []

    def method(self, *arguments, **named):
        if step_of(self, *arguments) == step and not done:
            done.append(True)
            act(self)
        return original(self, *arguments, **named)

    setattr(owner, name, method)


def in_step(act: Callable[[object], None]) -> Callable[[int], None]:
    def plant(step: int) -> None:
        from pretrain.engine import Engine

        before(Engine, "train_step", step, act, lambda engine, *_: engine.step)

    return plant


def hold_the_interpreter(_: object) -> None:
    while True:  # a signal, such as the one for the stacks, ends a sleep
        ctypes.PyDLL(None).sleep(FOR_EVER)  # unlike CDLL it keeps the lock


def crash(_: object) -> None:
    raise RuntimeError("planted")


def crash_with_secrets(_: object) -> None:
    """Raise what an HTTP library might: the first two are in the address, the third in the environment."""
    one, two, three = (os.environ[name] for name in ("IN_USER", "IN_QUERY", "HF_TOKEN"))
    raise RuntimeError(f"401 for https://user:{one}@host/?api_key={two} with Authorization: Bearer {three}")


def hang_in_data(step: int) -> None:
    from pretrain.stream.data import Batches

    calls = iter(range(10**9))
    before(Batches, "__next__", step, lambda _: time.sleep(FOR_EVER), lambda _: next(calls))


def hang_in_save(step: int) -> None:
    from pretrain.checkpoint import Checkpoints

    hang = partial(time.sleep, FOR_EVER)
    before(Checkpoints, "begin", step, lambda _: hang(), lambda _, __, progress: progress.step)


def slow_save(step: int) -> None:
    """Never finish writing this rank's file of the state after `step`, while training goes on."""
    from pretrain import state_file

    original = state_file.write

    def write(directory, *arguments):
        if f"-{step:08d}-" in directory.name:
            time.sleep(FOR_EVER)
        return original(directory, *arguments)

    state_file.write = write


def hang_in_evaluation(step: int) -> None:
    from pretrain.engine import Engine

    before(Engine, "loss_sum", step, lambda _: time.sleep(FOR_EVER), lambda engine, *_: engine.step)


def poison(step: int) -> None:
    """Make the loss NaN from `step` on."""
    from math import nan

    from pretrain.model import GPT

    original, calls = GPT.forward, iter(range(10**9))

    def forward(self, *arguments, **named):
        loss = original(self, *arguments, **named)
        return loss * nan if self.training and next(calls) >= step else loss

    GPT.forward = forward


def lag(step: int) -> None:
    """Take long over every forward pass from `step` on."""
    from pretrain.model import GPT

    original, calls = GPT.forward, iter(range(10**9))

    def forward(self, *arguments, **named):
        if self.training and next(calls) >= step:
            time.sleep(0.5)  # much longer than a busy machine makes it
        return original(self, *arguments, **named)

    GPT.forward = forward


def hurry(_: int) -> None:
    """Find every step too long to be silent about."""
    from pretrain import loop

    loop._LONGEST_SILENCE_SECONDS = 0.0


def small_disk(kibibytes: int) -> None:
    """Let W&B's directory be a disk of its own, so small, that this process and its children alone see."""
    (run_dir,) = (text.removeprefix("run_dir=") for text in sys.argv if text.startswith("run_dir="))
    there = Path(run_dir).resolve() / "wandb"
    there.mkdir(parents=True)
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.geteuid(), os.getegid()
    alone = libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)) == 0
    assert alone, os.strerror(ctypes.get_errno())
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    private = libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    mounted = libc.mount(b"none", os.fsencode(there), b"tmpfs", 0, f"size={kibibytes}k".encode())
    assert (private, mounted) == (0, 0), os.strerror(ctypes.get_errno())


def spike(sequences: int) -> None:
    """Report too large a loss when so many sequences have been consumed, and no other time."""
    from pretrain.meter import Meter

    original = Meter.report

    def report(self, progress, **named):
        metrics = original(self, progress, **named)
        metrics["train/loss"] += 100.0 * (progress.sequences == sequences)
        return metrics

    Meter.report = report


def flip_a_bit(step: int) -> None:
    """Flip one bit of one weight after `step`, before the ranks compare them."""
    import torch

    from pretrain.engine import Engine

    def flip(engine) -> None:
        weight = dict(engine._module.named_parameters())["ln_f.weight"]
        weight.data.view(torch.int32)[3] ^= 1 << 12

    before(Engine, "replicated", step, flip, lambda engine: engine.step)


PLANTS: dict[str, Callable[[int], None]] = {
    "stop": in_step(lambda _: os.kill(os.getpid(), signal.SIGSTOP)),
    "kill": in_step(lambda _: os.kill(os.getpid(), signal.SIGKILL)),
    "hang": in_step(lambda _: time.sleep(FOR_EVER)),
    "interpreter": in_step(hold_the_interpreter),
    "crash": in_step(crash),
    "crash-with-secrets": in_step(crash_with_secrets),
    "flip": flip_a_bit,
    "hang-in-data": hang_in_data,
    "hang-in-save": hang_in_save,
    "hang-in-evaluation": hang_in_evaluation,
    "poison": poison,
    "lag": lag,
    "hurry": hurry,
    "spike": spike,
    "slow-save": slow_save,
    "small-disk": small_disk,
}

if __name__ == "__main__":
    watched(main, last_words)
