"""A compiled run is one graph, in one piece, compiled once, whatever happens between its steps."""

import pytest
import torch
from engines import TINY, engine, fresh_model, micro_batches, trained
from torch._dynamo.utils import counters

import pretrain.engine
from pretrain.distributed import World
from pretrain.model import GPT
from pretrain.step.float8 import Float8Linear

# Dynamo looks at the .grad of what it traces, leaf or not.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)


def graphs() -> tuple[int, int, int]:
    """Return how many graphs there are, how many breaks, and how many frames were compiled again."""
    again = sum(counters["recompiles"].values()) if "recompiles" in counters else 0
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()), again


def fifty_steps(world: World, **how: object) -> tuple[list[float], tuple[int, int, int]]:
    """Train with accumulation; evaluate and sample in between. Return the losses, and the graphs."""
    torch._dynamo.reset()
    counters.clear()
    ours = engine(world, stage=1, **how)  # pyright: ignore[reportArgumentType]
    sampler = GPT(TINY).eval()
    losses = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(50):
            losses += trained(ours, 1, first=step)
            if step % 10 == 3:
                tokens = micro_batches(90)[0][:1, :-3]
                ours.loss_sum(tokens[:, :-1], tokens[:, 1:])
                sampler.logits(tokens[:, : 4 + step // 10])
    ours.close()
    return losses, graphs()


def test_a_whole_model_has_one_graph_to_train_and_one_to_evaluate(world: World):
    expected, none = fifty_steps(world)
    assert none == (0, 0, 0)
    found, counted = fifty_steps(world, compiled="eager")
    assert counted == (2, 0, 0)
    assert found == pytest.approx(expected, rel=1e-6), (
        "the graph computes what the program said, but for rounding"
    )


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo does it
def test_products_in_fp8_break_no_graph(world: World):
    eager, found = (
        fifty_steps(world, precision="autocast", compiled=how, model=fresh_model(linear=Float8Linear))
        for how in (False, "eager")
    )
    assert found[1] == (2, 0, 0)
    assert found[0] == pytest.approx(eager[0], rel=1e-2), "roundings part, and grow"


def test_a_deep_model_has_one_graph_for_all_its_blocks(world: World, monkeypatch):
    monkeypatch.setattr(pretrain.engine, "_MOST_BLOCKS_IN_A_GRAPH", 1)
    model = fresh_model(layers=3)
    _, counted = fifty_steps(world, compiled="eager", model=model)
    assert counted == (1, 0, 0)
