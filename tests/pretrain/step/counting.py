"""Counts what a step asks of torch: calls that compute, waits of the host, bytes by collective."""

import re
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# These only look at memory in another way, or mark a place for a profiler: no kernel on any device.
_NO_KERNEL = set(
    re.findall(
        r"\w+",
        "view _unsafe_view t transpose permute slice select narrow expand detach alias as_strided unsqueeze "
        "squeeze reshape split split_with_sizes unbind _reshape_alias lift_fresh "
        "_record_function_enter_new _record_function_exit",
    )
)
# What the host cannot do before the device has done all that it was asked.
_WAITS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero"}
# Which argument of a collective is as large as what is reduced or gathered.
_WHOLE = {"allreduce_": 0, "_allgather_base_": 0, "_reduce_scatter_base_": 1, "reduce_": 0, "broadcast_": 0}


class Calls(TorchDispatchMode):
    """What happens inside the block, in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.computing: Counter[str] = Counter()
        self.waits = 0
        self.collective_bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if func.namespace == "c10d":
            whole = args[_WHOLE[name]]
            for tensor in whole if isinstance(whole, list | tuple) else [whole]:
                self.collective_bytes[name.strip("_")] += tensor.nbytes
        elif name in _WAITS:
            self.waits += 1
        elif name not in _NO_KERNEL:
            self.computing[name] += 1
        return func(*args, **(kwargs or {}))


class Synchronizations:
    """How often DeepSpeed waits for the whole device, counted while it is entered."""

    def __enter__(self) -> "Synchronizations":
        from deepspeed.accelerator import get_accelerator

        self._accelerator, self.count = get_accelerator(), 0
        self._own = self._accelerator.synchronize
        self._accelerator.synchronize = self._counted  # pyright: ignore[reportAttributeAccessIssue]
        return self

    def __exit__(self, *_: object) -> None:
        self._accelerator.synchronize = self._own

    def _counted(self, *given: Any) -> Any:
        self.count += 1
        return self._own(*given)


def update_calls(engine: Any, micro_batches: list[torch.Tensor], rate: float) -> tuple[Calls, int]:
    """Take one step; return what its update called, after the last backward pass, and DeepSpeed's waits."""
    own, calls = engine._update, Calls()

    def counted() -> Any:
        with calls:
            return own()

    engine._update = counted
    with Synchronizations() as waits:
        engine.train_step(micro_batches, rate)
    engine._update = own
    return calls, waits.count
