"""What holds on a CPU must hold with a GPU's own kernels: `make test-gpu`, which takes a CPU if it must."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from engines import RATE, engine, fresh_model, micro_batches, same_bits, whole_state
from random_model import random_model
from test_fragments import transferred
from torch import nn

from pretrain.cross_entropy import IGNORED, head_loss
from pretrain.distributed import World
from pretrain.documents import full_mask
from pretrain.engine import Engine
from pretrain.model import GPTConfig
from pretrain.step.attention import choose_attention
from pretrain.step.float8 import Float8Linear, has_float8
from pretrain.step.readback import Readback

pytestmark = [
    pytest.mark.gpu,
    # Dynamo looks at the .grad of what it traces, leaf or not.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


def trained(ours: Engine, world: World, steps: int, *, first: int = 0) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        batch = [tokens.to(world.device) for tokens in micro_batches(step)]
        losses.append(float(ours.train_step(batch, RATE).loss))
    return losses


@contextlib.contextmanager
def no_waits(world: World) -> Iterator[None]:
    """Raise where the host waits for the GPU."""
    if world.device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_is_torchs_cross_entropy(world: World, dtype: torch.dtype):
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(300, 64, generator=chance).to(world.device, dtype).requires_grad_()
    weight = torch.randn(1024, 64, generator=chance).to(world.device, dtype).requires_grad_()
    targets = torch.randint(1000, (300,), generator=chance).to(world.device)
    targets[-7:] = IGNORED
    loss = head_loss(x, weight, targets, vocabulary=1000)
    found = (loss, *torch.autograd.grad(loss, (x, weight)))
    logits = (x.float() @ weight.float().t())[:, :1000]
    exact = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    expected = (exact, *torch.autograd.grad(exact, (x, weight)))
    for one, other in zip(found, expected, strict=True):
        error = (one.float() - other.float()).norm() / other.float().norm()
        assert error < (1e-5 if dtype == torch.float32 else 2**-6)


def test_attention_is_the_plain_products_to_what_bf16_rounds(world: World):
    choose_attention(world.device)
    chance = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 4, 256, 64, generator=chance).to(world.device, torch.bfloat16) for _ in range(3)
    )
    found = F.scaled_dot_product_attention(query, key, value, is_causal=True).float()
    scores = (query.float() @ key.float().transpose(2, 3)) / 8
    hidden = torch.ones(256, 256, device=world.device, dtype=torch.bool).triu(1)
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value.float()
    assert (found - expected).norm() < 2**-6 * expected.norm()


def test_a_step_never_waits_for_the_device(world: World):
    ours = engine(world, stage=1, precision="autocast")
    trained(ours, world, 2)
    batch = [tokens.to(world.device) for tokens in micro_batches(2)]
    back = Readback(world.device)
    with no_waits(world):
        for step in range(3):
            back.send(step, ours.train_step(batch, RATE).skipped)
    assert all(value == 0 for _, value in back.arrived())
    ours.close()


def test_a_compiled_step_is_one_graph_and_learns_the_same(world: World):
    from test_compiling import graphs

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    eager, compiled = (engine(world, stage=1, precision="autocast", compiled=how) for how in (False, True))
    expected = trained(eager, world, 20)
    with torch._dynamo.config.patch(error_on_recompile=True):
        found = trained(compiled, world, 20)
    assert graphs() == (1, 0, 0)
    assert found == pytest.approx(expected, rel=5e-3)
    eager.close()
    compiled.close()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does it
@pytest.mark.parametrize("compiled", [False, True])
def test_the_logits_of_a_document_are_those_of_the_document_alone(world: World, compiled: bool):
    end, lengths = 50, (90, 1, 38, 127)  # 256 tokens: no document ends where a block of the mask does
    shape = GPTConfig(layers=2, heads=2, channels=64, context=256, vocabulary=60, padded_vocabulary=64)
    model = random_model(shape, end_of_text=end).to(world.device)
    chance = torch.Generator().manual_seed(0)
    parts = [
        torch.cat([torch.tensor([end]), torch.randint(end, (n - 1,), generator=chance)]) for n in lengths
    ]
    torch._dynamo.reset()
    logits = torch.compile(model.logits, fullgraph=True, dynamic=False) if compiled else model.logits
    with torch.no_grad():
        packed = logits(torch.cat(parts)[None].to(world.device))[0].split(lengths)
        for part, found in zip(parts, packed, strict=True):
            alone = model.logits(part[None].to(world.device))[0]
            torch.testing.assert_close(found, alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max()))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does it
@pytest.mark.parametrize("compiled", [False, True])
def test_documents_are_trained_on_as_with_a_mask_of_every_pair(
    compiled: bool, world: World, monkeypatch: pytest.MonkeyPatch
):
    end, tokens = 30, 256
    chance = torch.Generator().manual_seed(0)
    strides = torch.randint(1, 4, (10, 2, 2, 1), generator=chance)
    batches = (strides * torch.arange(tokens + 1) % 97).to(world.device)  # each meets 30 a few times

    def losses(how: bool) -> list[float]:
        torch._dynamo.reset()
        model = fresh_model(end_of_text=end, context=tokens)
        ours = engine(world, stage=1, compiled=how, model=model)
        found = [float(ours.train_step(list(batch), RATE).loss) for batch in batches]
        ours.close()
        return found

    found = losses(compiled)
    monkeypatch.setattr("pretrain.documents.sparse_mask", full_mask)
    assert found == pytest.approx(losses(False), rel=1e-3)
    assert found[-1] < found[0] - 1


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does it
def test_fp8_learns_as_bf16_does_in_one_graph(world: World):
    if not has_float8(world.device):
        pytest.skip("this GPU has no FP8: compute capability 8.9 (Ada) or later has")
    torch._dynamo.reset()
    losses = []
    for linear in (nn.Linear, Float8Linear):
        ours = engine(world, stage=1, precision="autocast", compiled=True, model=fresh_model(linear=linear))
        with torch._dynamo.config.patch(error_on_recompile=True):
            losses.append(trained(ours, world, 50))
        ours.close()
        torch._dynamo.reset()
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


def test_autocast_learns_as_fp32_does(world: World):
    losses = []
    for precision in ("fp32", "autocast"):
        ours = engine(world, stage=1, precision=precision)
        losses.append(trained(ours, world, 50))
        ours.close()
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


def test_a_loaded_state_goes_on_bit_by_bit(world: World):
    whole = engine(world, stage=1, precision="autocast")
    trained(whole, world, 3)
    resumed = engine(world, stage=1, precision="autocast", model=fresh_model(seed=9))
    transferred(whole, resumed)
    assert trained(resumed, world, 3, first=3) == trained(whole, world, 3, first=3)
    assert same_bits(whole_state(whole), whole_state(resumed))
    whole.close()
    resumed.close()
