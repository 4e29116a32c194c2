"""Those who train the same model in a benchmark: ours, plain torch, nanoGPT's own, default DeepSpeed.

Each begins with the same weights, takes the same micro-batches at the same rate, and returns its loss.
"""

import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pretrain.batch import BatchPlan
from pretrain.distributed import World
from pretrain.engine import Engine
from pretrain.export import hugging_face_config
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.optim import AdamWConfig, adamw
from pretrain.step.float8 import Float8Linear
from pretrain.zero import ZeroConfig, stage_among

import deepspeed  # isort: skip (after our engine, which tells it the device)

Step = Callable[[list[Tensor], float], Tensor]
OPTIM = AdamWConfig()
_SEED = 0


def fresh(shape: GPTConfig, device: torch.device, *, fp8: bool = False) -> GPT:
    """Return our model as every contender begins with it."""
    model = GPT(shape, linear=Float8Linear if fp8 else nn.Linear)
    initialise(model, _SEED)
    return model.to(device)


def ours(
    shape: GPTConfig,
    plan: BatchPlan,
    world: World,
    *,
    precision: str,
    compiled: bool,
    stage: int = 1,
    fp8: bool = False,
) -> Step:
    """Return a step of this project's engine."""
    engine = Engine(
        fresh(shape, world.device, fp8=fp8),
        optim=OPTIM,
        zero=ZeroConfig(stage=stage_among(world.size, stage, precision)),
        precision=precision,
        plan=plan,
        world=world,
        seed=_SEED,
        compiled=compiled,
    )
    return lambda batch, rate: engine.train_step(batch, rate).loss


def plain(shape: GPTConfig, device: torch.device, *, autocast: bool = False) -> Step:
    """Return a step of our model in torch's own loop, without DeepSpeed."""
    model = fresh(shape, device)
    return _loop(model, adamw(model.named_parameters(), OPTIM), device, autocast=autocast, result=lambda x: x)


def nanogpt(
    path: Path, shape: GPTConfig, device: torch.device, *, compiled: bool, autocast: bool = False
) -> Step:
    """Return a step of nanoGPT's model.py and train.py (without its data and its printing)."""
    model = _nanogpt_model(path, shape, device)
    optimizer = model.configure_optimizers(OPTIM.weight_decay, 0.0, (OPTIM.beta1, OPTIM.beta2), device.type)
    called = torch.compile(model) if compiled else model
    return _loop(model, optimizer, device, called=called, autocast=autocast, result=lambda pair: pair[1])


def transformers_deepspeed(shape: GPTConfig, plan: BatchPlan, device: torch.device) -> Step:
    """Return a step of transformers' GPT-2 in default DeepSpeed, bf16."""
    config = transformers.GPT2Config(**hugging_face_config(shape))
    config.vocab_size = shape.padded_vocabulary  # which is kinder to it than 50,257
    model = transformers.GPT2LMHeadModel(config).to(device)

    def loss(engine: Any, tokens: Tensor) -> Tensor:
        return engine(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss  # shifts by itself

    return _deepspeed(model, plan, device, loss, bf16=True)


def default_deepspeed(
    path: Path, shape: GPTConfig, plan: BatchPlan, device: torch.device, *, bf16: bool
) -> Step:
    """Return a step of nanoGPT's model in DeepSpeed with nothing set but what one must set."""
    model = _nanogpt_model(path, shape, device)

    def loss(engine: Any, tokens: Tensor) -> Tensor:
        return engine(tokens[:, :-1], tokens[:, 1:].contiguous())[1]

    return _deepspeed(model, plan, device, loss, bf16=bf16)


def _deepspeed(
    model: nn.Module,
    plan: BatchPlan,
    device: torch.device,
    loss_of: Callable[[Any, Tensor], Tensor],
    *,
    bf16: bool,
) -> Step:
    """Return a step in DeepSpeed with nothing set but what one must set."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(OPTIM.beta1, OPTIM.beta2), weight_decay=OPTIM.weight_decay
    )
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": plan.micro_sequences,
        "gradient_accumulation_steps": plan.accumulation,
        "gradient_clipping": OPTIM.clip_norm,
        "zero_optimization": {"stage": 1},
    }
    if bf16:
        config["bf16"] = {"enabled": True}
    engine: Any = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]

    def step(batch: list[Tensor], rate: float) -> Tensor:
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=device)
        for tokens in batch:
            loss = loss_of(engine, tokens)
            engine.backward(loss)
            engine.step()
            total += loss.detach() / len(batch)
        return total

    return step


def _loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    *,
    called: Any = None,
    autocast: bool,
    result: Callable[[Any], Tensor],
) -> Step:
    called = model if called is None else called

    def step(batch: list[Tensor], rate: float) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=device)
        for tokens in batch:
            with torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext():
                loss = result(called(tokens[:, :-1], tokens[:, 1:].contiguous()))
            (loss / len(batch)).backward()
            total += loss.detach() / len(batch)
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    return step


def _nanogpt_model(path: Path, shape: GPTConfig, device: torch.device) -> Any:
    """Return nanoGPT's model with our first weights."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", path / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.GPTConfig(
        block_size=shape.context,
        vocab_size=shape.padded_vocabulary,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_embd=shape.channels,
        dropout=0.0,
        bias=True,
    )
    model = module.GPT(config)
    named = {f"transformer.{name}": p.detach() for name, p in fresh(shape, device).named_parameters()}
    named["lm_head.weight"] = named["transformer.wte.weight"]
    model.to(device).load_state_dict(named)
    return model
