"""How many bytes a rank needs, part by part, for every ZeRO stage with and without offload.

What DeepSpeed 0.19.8 allocates for the settings of `pretrain.engine`. Model states are 16 to 18 bytes
a parameter (Rajbhandari et al., 2020, section 3.1), and fp32 weights, as under autocast, cost 2 more.
"""

from dataclasses import dataclass

from pretrain.planning.shape import Shape

RECOMPUTE = ("none", "selective", "full")  # pretrain.step.recomputation
_FP32, _BF16 = 4, 2
_LIVE_PARAMETERS = 1_000_000_000  # stage3_max_live_parameters, DeepSpeed's default
_SUB_GROUP = 1_000_000_000  # sub_group_size, likewise: what stage 3 updates at a time
# Bytes that the backward pass needs of each token, layer and channel, by what it computes a second time. All
# kept, in bf16: input 2, LayerNorm 2, q k v 6, attention 2, input 2, LayerNorm 2, MLP 8 + 8 = 32; only what
# products and attention gave: 18; the block's input alone: 2. Twice that in fp32.
_ACTIVATION_BYTES = {"none": 32, "selective": 18, "full": 2}
_MOST_LOGIT_BYTES = 8 * 2**30  # pretrain.cross_entropy cuts beyond
# On a CPU it takes a chunk of so many bytes at a time, and of that a tile of rows, in fp32, twice.
_CPU_LOGIT_BYTES = 26 << 20
_CPU_TILE_ROWS = 32
# CUDA's context, cuBLAS's and NCCL's workspaces, and what the caching allocator cannot use. Model.
_GPU_OVERHEAD_BYTES = 3.0 * 2**30
# A Python process with torch, DeepSpeed, the data set and the tokenizer, before a model exists; measured.
_CPU_PROCESS_BYTES = 445 * 2**20
# For each parameter of a rank's share, in the host's memory while a save is written: fp32 weight and two
# moments as they were. The file is written from them: 0.02 bytes more, measured with 40 million parameters.
_SAVE_BYTES = 12


@dataclass(frozen=True)
class Sharding:
    """How the states of a model lie among the ranks."""

    stage: int
    ranks: int
    offload: bool = False  # optimizer states in the host's memory
    reduce_bucket: int = 50_000_000  # elements
    overlap: bool = True


@dataclass(frozen=True)
class Work:
    """What one rank computes at a time, and how."""

    micro_sequences: int
    sequence_tokens: int
    precision: str
    compiled: bool
    on_gpu: bool
    recompute: str = "none"  # none | selective | full


def states(shape: Shape, sharding: Sharding, precision: str) -> dict[str, float]:
    """Return the bytes of weights, gradients and optimizer states on one rank.

    For bf16 these are what DeepSpeed's own estimators count, but for two things: at stage 2 we sum the
    gradients of a step in fp32 (2 bytes of a share more), and they forget stage 3's fp32 copy of them.
    """
    count, stage = float(shape.padded_parameters), sharding.stage
    share = count / sharding.ranks
    weight = _BF16 if precision == "bf16" else _FP32
    weights = weight * (share if stage == 3 else count)
    gradients = _FP32 * share if stage >= 2 else weight * count
    if stage == 0:
        optimizer, step = 8 * count, 0.0
    else:  # two moments, and fp32 masters; of fp32 weights, too, DeepSpeed keeps a copy
        optimizer, step = 12 * share, _FP32 * (min(share, _SUB_GROUP) if stage == 3 else share)
    if sharding.offload and stage > 0:
        optimizer = step = 0.0
        gradients = gradients if stage == 1 else 0.0
    return {"weights": weights, "gradients": gradients, "optimizer": optimizer, "gradient of a step": step}


def host_bytes(shape: Shape, sharding: Sharding) -> float:
    """Return what a rank puts into the host's memory: offloaded states, and the copy of a save."""
    share = shape.padded_parameters / max(1, sharding.ranks)
    return _SAVE_BYTES * share + (16 * share if sharding.offload and sharding.stage else 0.0)


def working(shape: Shape, sharding: Sharding, work: Work) -> dict[str, float]:
    """Return the bytes of what a step needs beside the states."""
    tokens = work.micro_sequences * work.sequence_tokens
    size = _BF16 if work.precision == "bf16" else _FP32  # of a weight
    parts = {
        "activations": _activation_bytes(shape, work, tokens),
        "logits": _logit_bytes(shape, work, tokens),
        "head gradient": float(_FP32 * shape.padded_vocabulary * shape.channels),
        "buckets": _bucket_bytes(shape, sharding, size, on_gpu=work.on_gpu),
    }
    if sharding.stage == 3:
        parts["gathered weights"] = float(size * min(shape.padded_parameters, _LIVE_PARAMETERS))
    if not work.on_gpu:
        if sharding.ranks > 1:  # gloo works on copies of what it sends and receives
            parts["messages"] = 2 * parts["buckets"]
        parts["copy of a save"] = _SAVE_BYTES * shape.padded_parameters / sharding.ranks
    parts["process"] = _GPU_OVERHEAD_BYTES if work.on_gpu else _CPU_PROCESS_BYTES
    return parts


def needed(shape: Shape, sharding: Sharding, work: Work) -> dict[str, float]:
    """Return the bytes of every part on one rank at its peak."""
    return {**states(shape, sharding, work.precision), **working(shape, sharding, work)}


def _activation_bytes(shape: Shape, work: Work, tokens: int) -> float:
    size = 2 if work.precision == "fp32" else 1
    kept = _ACTIVATION_BYTES[work.recompute] * shape.layers
    if work.recompute != "none":
        kept += _ACTIVATION_BYTES["none"]  # of the block that is being computed again
    return float(size * kept * tokens * shape.channels)


def _logit_bytes(shape: Shape, work: Work, tokens: int) -> float:
    if not work.on_gpu:
        size = _FP32 if work.precision == "fp32" else _BF16
        tiles = 2 * _FP32 * min(tokens, _CPU_TILE_ROWS) * shape.vocabulary
        return float(min(_CPU_LOGIT_BYTES, size * tokens * shape.vocabulary) + tiles)
    return float(min(_MOST_LOGIT_BYTES, _BF16 * tokens * shape.padded_vocabulary))


def _bucket_bytes(shape: Shape, sharding: Sharding, size: int, *, on_gpu: bool) -> float:
    """Return what gradients pass through: two buckets if one is filled while the other is on its way.

    A GPU sets aside whole buckets; on a CPU a page counts only once it was written.
    """
    if sharding.stage == 0:
        return 0.0
    elements = sharding.reduce_bucket * (2 if sharding.overlap else 1)
    if not on_gpu:
        elements = min(elements, shape.padded_parameters)
    return float(size * elements)
