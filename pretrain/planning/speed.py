"""How fast a model should train: a roofline of one device, and what talking to the others adds.

The roofline counts a token's products at the speed a large product reaches, slower for short inner
sizes; attention at the speed of a fused kernel; and everything else by the bytes that it moves. It was
fitted on one H200 and is held against published throughputs in the tests.
"""

from dataclasses import dataclass

from pretrain.planning.hardware import Hardware, bus_bytes_per_s, latency_seconds
from pretrain.planning.memory import Sharding, Work
from pretrain.planning.shape import Shape, flops_per_token

_SHORT_INNER_SIZE = 160  # a product over K reaches K / (K + 160) of the speed of one over 8192
_SUSTAINED = 0.95  # of a burst's clock
_WEIGHT_GRADIENT = 0.82  # of a large product's speed: their inner size is the tokens, their result fp32
_COPY_SHARE = 0.85  # of a copy's bandwidth, for fused elementwise kernels
_UNMODELLED = 1.07  # published runs against this model, llm.c's and modded-nanogpt's on H100 and H200
_CPU_SHARE = 0.45  # of the peak, for all of a step; measured on the demo
# Bytes moved for each token and layer outside products and attention, in units of channels; and for each
# vocabulary entry of the loss: compiled, and operator by operator.
_ELEMENTWISE = {True: 98, False: 160}
_LOSS_BYTES = {True: 6, False: 36}
_OPTIMIZER_BYTES = {0: 30, 1: 106, 2: 106, 3: 106}  # for each parameter and step; 106 is DeepSpeed's path
# Offloaded: AdamW's traffic in the host's memory, which its ranks share, and both ways over PCIe 4. Model.
_HOST_ADAM_BYTES, _HOST_BYTES_PER_S = 34, 300e9
_PCIE_BYTES, _PCIE_BYTES_PER_S = 8, 20e9
# Below this a GPU waits for Python: launches, and DeepSpeed's hook on every parameter. Model.
_HOST_SECONDS_PER_LAYER = 4e-4
_BACKWARD_SHARE = 2 / 3  # of a micro-batch's time, in which gradients can be reduced unnoticed
_HIDDEN_AT_STAGE_3 = 0.7  # of the compute time, that gathering weights ahead can hide behind


@dataclass(frozen=True)
class Speed:
    """What one optimizer step takes, in seconds, and what follows from it."""

    compute: float
    optimizer: float
    communication: float  # what is not hidden behind computing
    tokens_per_s: float  # of all ranks
    mfu: float

    @property
    def step(self) -> float:
        """Return the seconds of a step."""
        return self.compute + self.optimizer + self.communication


def speed(
    shape: Shape,
    device: Hardware,
    sharding: Sharding,
    work: Work,
    *,
    accumulation: int,
    ranks_per_node: int,
    factor: float = 1.0,
) -> Speed:
    """Return the expected speed; `factor` is what a measured run was faster than this model."""
    micro_tokens = work.micro_sequences * work.sequence_tokens
    micro = micro_tokens * token_seconds(shape, device, work)
    if device.is_gpu:
        micro = max(micro, shape.layers * _HOST_SECONDS_PER_LAYER)
    compute = accumulation * micro
    share = shape.padded_parameters / (1 if sharding.stage == 0 else sharding.ranks)
    optimizer = _OPTIMIZER_BYTES[sharding.stage] * share / (device.memory_bytes_per_s * _COPY_SHARE)
    if sharding.offload:
        host = _HOST_ADAM_BYTES * min(ranks_per_node, sharding.ranks) / _HOST_BYTES_PER_S
        optimizer = share * (host + _PCIE_BYTES / _PCIE_BYTES_PER_S)
    communication = _exposed_seconds(
        shape, device, sharding, work, micro=micro, accumulation=accumulation, ranks_per_node=ranks_per_node
    )
    step = (compute + optimizer + communication) / factor
    tokens = sharding.ranks * accumulation * micro_tokens
    flops = sum(flops_per_token(shape, work.sequence_tokens).values())
    return Speed(
        compute / factor,
        optimizer / factor,
        communication / factor,
        tokens / step,
        flops * tokens / step / (device.peak_flops * sharding.ranks),
    )


def token_seconds(shape: Shape, device: Hardware, work: Work) -> float:
    """Return the seconds of one token's forward and backward pass on one device."""
    if not device.is_gpu:
        flops = sum(flops_per_token(shape, work.sequence_tokens).values())
        return flops / (device.peak_flops * _CPU_SHARE)
    channels, layers, words = shape.channels, shape.layers, shape.padded_vocabulary

    def rate(inner: float) -> float:
        large = device.product_flops * (8192 + _SHORT_INNER_SIZE) / 8192
        return large * inner / (inner + _SHORT_INNER_SIZE) * _SUSTAINED

    weight_gradient = device.product_flops * _WEIGHT_GRADIENT * _SUSTAINED
    square = channels**2
    # (FLOPs in channels², inner size in channels) of q k v, projection, MLP; then of their inputs.
    forward = ((6, 1), (2, 1), (8, 1), (8, 4))
    backward = ((6, 3), (2, 1), (8, 4), (8, 1))
    layer = sum(flops * square / rate(inner * channels) for flops, inner in forward + backward)
    layer += 24 * square / weight_gradient
    head = 2 * channels * words * (1 / rate(channels) + 1 / rate(words) + 1 / weight_gradient)
    ahead, back = device.attention_flops  # 2·C·T causal FLOPs ahead; 5·C·T back, with the scores made again
    layer += channels * work.sequence_tokens * (2 / ahead + 5 / back)
    moved = _ELEMENTWISE[work.compiled] * (2 if work.precision == "fp32" else 1)
    if work.recompute == "full":
        layer *= 4 / 3  # every block's forward pass once more
    if work.recompute != "none":
        moved *= 4 / 3
    moved_bytes = moved * channels * layers + _LOSS_BYTES[work.compiled] * words
    return _UNMODELLED * (layers * layer + head + moved_bytes / (device.memory_bytes_per_s * _COPY_SHARE))


def _exposed_seconds(
    shape: Shape,
    device: Hardware,
    sharding: Sharding,
    work: Work,
    *,
    micro: float,
    accumulation: int,
    ranks_per_node: int,
) -> float:
    """Return the seconds of a step in which a rank does nothing but wait for others."""
    ranks, stage = sharding.ranks, sharding.stage
    if ranks == 1:
        return 0.0
    bus = bus_bytes_per_s(device, ranks, ranks_per_node)
    latency = latency_seconds(ranks, ranks_per_node)
    one_way = (
        (ranks - 1) / ranks * shape.padded_parameters / bus
    )  # seconds a byte per parameter, around a ring
    weight = 2 if work.precision == "bf16" else 4  # under autocast gradients travel as bf16, weights as fp32
    reduce = (2 if work.precision != "fp32" else 4) * one_way + latency
    gather = weight * one_way + latency
    hidden = _BACKWARD_SHARE * micro if sharding.overlap else 0.0
    if stage == 0:
        return max(0.0, 2 * reduce - hidden)
    if stage == 1:
        return max(0.0, reduce - hidden) + gather
    if stage == 2:
        return accumulation * max(0.0, reduce - hidden) + gather
    both = reduce + 2 * gather  # weights are gathered for the forward and again for the backward pass
    return accumulation * max(0.0, both - _HIDDEN_AT_STAGE_3 * micro)
