"""How a step is computed: the only file that knows DeepSpeed, and the only one that spells its keys.

DeepSpeed owns accumulation, reduction, sharding and clipping. We own the initial weights, the
optimizer, the learning rate, the data's position and the saved state.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pretrain import fragments
from pretrain.batch import BatchPlan
from pretrain.distributed import World
from pretrain.fragments import Fragment
from pretrain.key_value_cache import KeyValueCache
from pretrain.optim import AdamWConfig, adamw
from pretrain.step.attention import choose_attention
from pretrain.step.clipping import Clipping, Tamed
from pretrain.step.seeds import dropout_seed
from pretrain.stopwatch import Stopwatch
from pretrain.zero import ZeroConfig

# Read while deepspeed is imported; it also silences the guess that DeepSpeed else prints.
os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed
import deepspeed.ops

# ZeRO cuts the line of all elements among the ranks. DeepSpeed's own Muon is right there only without
# clipping (its issues 8439 and 7776), and takes GPT-2's embeddings for matrices.
MUON_NEEDS_WHOLE_MATRICES = "optim.matrices=muon needs whole matrices on every rank; use zero=stage0"
PRECISIONS = ("autocast", "fp32", "bf16")
# Up to 355M's. Beyond, compiling once for all blocks takes a minute instead of several, for 1 % of the speed.
_MOST_BLOCKS_IN_A_GRAPH = 24
_LINEAR = torch.nn.functional.linear


class StepResult(NamedTuple):
    """What one optimizer step reports; tensors stay on the device until somebody reads them."""

    loss: Tensor  # this rank's mean over the step, fp64 scalar
    gradient_norm: Tensor  # over all ranks, before clipping, fp32 scalar
    skipped: Tensor  # 1 if the gradient was not finite, so that no weight changed; else 0


def settings(zero: ZeroConfig, precision: str, plan: BatchPlan, clip_norm: float) -> dict[str, Any]:
    """Return DeepSpeed's configuration. Unknown top-level keys are ignored by it, so none is passed on."""
    optimization: dict[str, Any] = {"stage": zero.stage}
    if zero.stage in (1, 2) and not zero.offload:
        optimization["compute_grad_norm"] = False  # in fp64, tensor by tensor; see pretrain.step.clipping
    if zero.stage:
        optimization |= {
            "overlap_comm": zero.overlap,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": zero.reduce_bucket,
            "allgather_bucket_size": zero.gather_bucket,
        }
    if zero.offload:
        optimization["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": plan.micro_sequences,
        "gradient_accumulation_steps": plan.accumulation,
        # Spelled out, as the default became 1.0 in 0.19.3. Elsewhere the optimizer clips by itself.
        "gradient_clipping": clip_norm if _deepspeed_clips(zero) else 0.0,
        "zero_optimization": optimization,
        # Cautious decay is AdamW to ZeRO: element by element, with the same state.
        "zero_allow_untested_optimizer": True,
        # torch's fused AdamW is a CPU's, too; DeepSpeed's own would be compiled first.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "log_level": "WARNING",
        # On by default, and it synchronises the device twice a step.
        "timers": {"throughput": {"enabled": False}},
    }
    if precision == "bf16":
        # The search for infinities, tensor by tensor and with a wait for each, is for those alone.
        config["bf16"] = {"enabled": True, "check_grad_overflow": _deepspeed_clips(zero)}
        if zero.stage >= 2:
            # At stage 1 this would select another optimizer, without overlap.
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    elif precision == "autocast":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
        if zero.stage == 3:
            # Else the gathered bf16 copies find their way into the fp32 weights that are still in
            # memory, and a resumed run, which reads the exact ones, parts from it (by 3e-5 in loss).
            config["torch_autocast"]["lower_precision_safe_modules"] = []
    return config


def _deepspeed_clips(zero: ZeroConfig) -> bool:
    """Say whether DeepSpeed itself finds the norm, clips, and skips what is not finite."""
    return zero.stage == 3 or zero.offload


class Engine:
    """A model that trains over all ranks."""

    def __init__(
        self,
        model: nn.Module,
        *,
        optim: AdamWConfig,
        zero: ZeroConfig,
        precision: str,
        plan: BatchPlan,
        world: World,
        seed: int,
        compiled: str | bool = False,
        width_ratio: float = 1.0,
    ) -> None:
        self.plan = plan
        self.step = 0  # optimizer steps done, skipped ones included
        self.stage = zero.stage
        self._deepspeed_clips = _deepspeed_clips(zero)
        self._precision = precision
        self._optim = optim
        self._world = world
        self._seed = seed
        self._forward = Stopwatch(world.device)
        if optim.matrices == "muon" and zero.stage:
            raise ValueError(MUON_NEEDS_WHOLE_MATRICES)
        _join_deepspeed(world)
        inner = adamw(model.named_parameters(), optim, width_ratio)
        config = settings(zero, precision, plan, optim.clip_norm)
        self._module = model
        self._engine: Any = deepspeed.initialize(model=model, optimizer=inner, config=config)[0]
        self._zero: Any = self._engine.optimizer  # at stage 0 the AdamW itself
        # It would lay all gradients end to end, to send them to nobody.
        self._engine.enable_backward_allreduce = zero.stage > 0 or world.size > 1
        self._adam: torch.optim.Optimizer = inner if zero.stage == 0 else self._zero.optimizer
        self._clipping = Clipping(self._adam, optim.clip_norm, shared=zero.stage > 0 and world.size > 1)
        for flat in fragments.owned_flats(self._zero, zero.stage):
            fragments.make_moments(self._adam, flat, steps=0)
        choose_attention(world.device)
        self._by_block = False
        self._summed_loss: Callable[[Tensor, Tensor], Tensor] | None = None  # compiled for evaluation
        if compiled:
            self._compile(compiled)

    def train_step(self, micro_batches: Sequence[Tensor], learning_rate: float) -> StepResult:
        """Update the weights once from this rank's micro-batches, each int64 (B, T + 1)."""
        self._engine.train()
        for group in self._zero.param_groups:
            group["lr"] = learning_rate * group["lr_scale"]
            if "momentum" in group:
                group["momentum"] = self._optim.momentum_at(self.step)
        self._accumulate(len(micro_batches))
        total = torch.zeros((), dtype=torch.float64, device=self._world.device)
        tamed = None
        for number, tokens in enumerate(micro_batches):
            # Dropout is a function of (seed, step, rank, micro-batch), so resuming needs no generator state.
            torch.manual_seed(dropout_seed(self._seed, self.step, self._world.rank, number))
            with self._forward if number == 0 else contextlib.nullcontext():
                # A skipped sequence is IGNORED, -1, from end to end; its inputs may be any token.
                loss = self._engine(tokens[:, :-1].clamp(min=0), tokens[:, 1:])
            self._engine.backward(loss)  # divides by the accumulation steps
            total.add_(loss.detach(), alpha=1 / len(micro_batches))
            # After every micro-batch, as DeepSpeed counts them; it acts on the last.
            tamed = self._update() if number == len(micro_batches) - 1 else self._engine.step()
        self.step += 1
        assert self._engine.global_steps == self.step, (self._engine.global_steps, self.step)
        assert tamed is not None, "a step has at least one micro-batch"
        return StepResult(total, *tamed)

    def _accumulate(self, micro_batches: int) -> None:
        """Let the next step be of so many micro-batches; the engine steps where it has a multiple of them."""
        if micro_batches != self._engine.gradient_accumulation_steps():
            self._engine.set_train_batch_size(micro_batches * self.plan.micro_sequences * self.plan.ranks)
            self._engine.micro_steps = self.step * micro_batches

    def _update(self) -> Tamed:
        """Move the weights, by the gradient that is complete on all ranks, or leave them; say which."""
        if not self._deepspeed_clips:
            tamed = self._clipping.tame(self._gradients())
            self._engine.step()
            return tamed
        skipped_before = self._engine.skipped_steps
        self._engine.step()
        norm = torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)
        return Tamed(norm, torch.tensor(float(self._engine.skipped_steps > skipped_before)))

    def _gradients(self) -> list[Tensor]:
        """Return the gradient, averaged over the ranks; at stages 1 and 2 this rank's share of it."""
        if self.stage == 0:
            return [p.grad for p in self._module.parameters() if p.grad is not None]
        return [piece for pieces in self._zero.averaged_gradients.values() for piece in pieces]

    def _compile(self, backend: str | bool) -> None:
        """Compile the model, whole or block by block, and its evaluation as a graph of its own."""
        how: dict[str, Any] = {"dynamic": False} | ({"backend": backend} if isinstance(backend, str) else {})
        blocks = getattr(self._module, "h", ())
        if self.stage < 3 and len(blocks) > _MOST_BLOCKS_IN_A_GRAPH:
            self._by_block = True
            for block in blocks:
                block.compile(**how)
            return
        self._engine.compile(compile_kwargs=how)
        if self.stage < 3:
            # Another function than the one that trains, so another graph: neither drives out the other.
            self._summed_loss = torch.compile(self._module.summed_loss, **how)  # pyright: ignore[reportCallIssue, reportArgumentType]

    def forward_seconds(self) -> float:
        """Return the seconds that this rank's forward passes took since the last call; wait for the device.

        One pass is timed per step. Below stage 3 no other rank can make it longer.
        """
        return self._engine.gradient_accumulation_steps() * self._forward.seconds()

    @torch.no_grad()
    def loss_sum(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross-entropy of int64 (B, T) `targets` in nats; see GPT.forward."""
        self._engine.eval()
        if self._summed_loss is None:
            # What a compiled block's graph is for is training alone.
            with torch.compiler.set_stance("force_eager") if self._by_block else contextlib.nullcontext():
                return self._engine(inputs, targets, reduction="sum")
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._precision == "autocast"):
            return self._summed_loss(inputs, targets)

    @torch.no_grad()
    def token_scores(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return (B, T, 2) of int64 (B, T): what each target costs, and whether it was the guess.

        Shapes change from call to call, so it is never compiled.
        """
        self._engine.eval()
        with torch.compiler.set_stance("force_eager"):
            return self._engine(inputs, targets, reduction="none")

    @torch.no_grad()
    def next_logits(self, inputs: Tensor, cache: KeyValueCache) -> Tensor:
        """Return the logits (B, 1, V) after int64 (B, T) that go on where `cache` ends; see GPT.logits."""
        self._engine.eval()
        with torch.compiler.set_stance("force_eager"):
            return self._engine(inputs.to(self._world.device), cache=cache)

    def fragments(self) -> Iterator[Fragment]:
        """Yield live views of what this rank must save; of all ranks together they are everything."""
        rank, ranks = self._world.rank, self._world.size
        return fragments.fragments(self._module, self._zero, self.stage, rank=rank, ranks=ranks)

    def wanted(self) -> Iterator[Fragment]:
        """Yield live views of what this rank must fill when loading."""
        if self.stage == 0:
            return fragments.fragments(self._module, self._zero, 0, rank=0, ranks=1)
        return self.fragments()

    def replicated(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what must be equal on all ranks, to the bit, after every step."""
        for name, parameter in self._module.named_parameters():
            if self.stage < 3 or getattr(parameter, "ds_persist", False):
                yield name, parameter.detach()
            if self.stage == 0:
                for moment in fragments.MOMENTS:
                    yield f"{moment}/{name}", self._adam.state[parameter][moment]

    @property
    def adam_steps(self) -> int:
        """Return how many updates the moments have seen: steps done less steps skipped."""
        flat = fragments.owned_flats(self._zero, self.stage)[0]
        return int(self._adam.state[flat]["step"])

    def resumed_at(self, step: int, adam_steps: int) -> None:
        """Go on from `step`, after every wanted fragment has been filled."""
        for flat in fragments.owned_flats(self._zero, self.stage):
            self._adam.state[flat]["step"].fill_(adam_steps)
        fragments.publish_weights(self._zero, self.stage)
        self.step = step
        self._engine.global_steps = step
        self._engine.global_samples = step * self.plan.sequences
        self._engine.micro_steps = step * self._engine.gradient_accumulation_steps()
        self._engine.skipped_steps = step - adam_steps

    def close(self) -> None:
        """Release DeepSpeed's hooks and buffers, and what stage 3 has put in the place of torch's own."""
        self._engine.destroy()
        torch.nn.functional.linear = _LINEAR


def _join_deepspeed(world: World) -> None:
    """Make DeepSpeed use the process group that is there."""
    if world.device.type == "cpu":
        # An all-reduce for inference that DeepSpeed would compile here for a minute or two, behind a
        # file lock that outlives a killed owner.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
