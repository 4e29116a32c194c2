"""What the parent of warm processes imports before it forks them: all that a training run ever does.

It must not start a thread: a fork would leave it behind, with whatever lock it held.
"""

import gc
import importlib
import threading

# DeepSpeed and torch import the last five only when an engine is built or steps, for four seconds.
_ALL = (
    *("pretrain.attempt", "pretrain.train", "hydra", "torch._dynamo", "deepspeed.utils.pin_memory"),
    *("deepspeed.runtime.zero.muon.muon_optimizer", "deepspeed.module_inject.auto_ep_layer"),
)

for name in _ALL:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
gc.collect()
gc.freeze()  # or each child would copy every page that its first collection touches
