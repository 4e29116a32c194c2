import pytest
import torch
from engines import KINDS, OFFLOADED, engine, fresh_model, micro_batches, same_bits, trained, whole_state

from pretrain.distributed import World
from pretrain.engine import Engine
from pretrain.optim import AdamWConfig

MOVES = [(1, 3), (3, 1), (0, 2), (2, 0), (3, 3), (1, 2)]


def transferred(source: Engine, target: Engine) -> None:
    """Load what `source` would save, as a checkpoint does."""
    state = whole_state(source)
    for fragment in target.wanted():
        for kind in ("weight", "exp_avg", "exp_avg_sq"):
            end = fragment.start + len(fragment.weight)
            getattr(fragment, kind).copy_(state[f"{kind}/{fragment.name}"][fragment.start : end])
    target.resumed_at(source.step, source.adam_steps)


@pytest.mark.parametrize(("precision", "stage"), KINDS)
def test_fragments_are_every_element_of_every_parameter_exactly_once(
    world: World, precision: str, stage: int
):
    """And in full precision: the very weights that the model began with, and no moment yet."""
    ours = engine(world, stage=stage, precision=precision)
    state = whole_state(ours)
    for name, parameter in fresh_model().named_parameters():
        expected = parameter.detach().flatten()
        if precision == "bf16":  # DeepSpeed has rounded the model before it made the masters
            expected = expected.bfloat16().float()
        assert torch.equal(state[f"weight/{name}"], expected), name
        assert state[f"exp_avg/{name}"].count_nonzero() == 0
    trained(ours, 1)
    assert whole_state(ours)["exp_avg/ln_f.bias"].count_nonzero() == 32
    ours.close()


@pytest.mark.parametrize(
    ("precision", "stage", "offload"),
    [*((*kind, False) for kind in KINDS), *OFFLOADED],
)
def test_a_loaded_engine_goes_on_bit_by_bit(world: World, precision: str, stage: int, offload: bool):
    whole = engine(world, stage=stage, precision=precision, offload=offload)
    trained(whole, 3)
    resumed = engine(world, stage=stage, precision=precision, offload=offload, model=fresh_model(seed=9))
    trained(resumed, 1, first=77)  # a past that must not show
    transferred(whole, resumed)
    assert same_bits(whole_state(whole), whole_state(resumed))
    assert (resumed.step, resumed.adam_steps) == (3, 3)
    assert trained(resumed, 3, first=3) == trained(whole, 3, first=3)
    assert same_bits(whole_state(whole), whole_state(resumed))
    whole.close()
    resumed.close()


def test_a_run_with_muon_is_carried_over_bit_by_bit(world: World):
    """Its momentum travels as the first moment; the second stays zero for the blocks' matrices."""
    muon = AdamWConfig(clip_norm=0.5, matrices="muon", momentum_warmup_steps=5)
    whole, resumed = engine(world, stage=0, optim=muon), engine(world, stage=0, optim=muon)
    trained(whole, 3)
    trained(resumed, 1, first=77)
    transferred(whole, resumed)
    assert trained(resumed, 3, first=3) == trained(whole, 3, first=3)
    state = whole_state(whole)
    assert same_bits(state, whole_state(resumed))
    assert state["exp_avg/h.0.mlp.c_fc.weight"].count_nonzero()
    assert not state["exp_avg_sq/h.0.mlp.c_fc.weight"].count_nonzero()
    whole.close()
    resumed.close()


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_muon_is_refused_where_no_rank_has_whole_matrices(world: World, stage: int):
    with pytest.raises(ValueError, match="use zero=stage0"):
        engine(world, stage=stage, optim=AdamWConfig(matrices="muon"))


@pytest.mark.parametrize(("before", "after"), MOVES)
def test_a_state_moves_to_another_stage_exactly(world: World, before: int, after: int):
    source, target = engine(world, stage=before), engine(world, stage=after, model=fresh_model(seed=9))
    trained(source, 3)
    transferred(source, target)
    assert same_bits(whole_state(source), whole_state(target))
    assert trained(target, 3, first=3) == pytest.approx(trained(source, 3, first=3), rel=1e-5)
    source.close()
    target.close()


@pytest.mark.parametrize("stage", [1, 3])
def test_buckets_smaller_than_a_parameter_change_nothing(world: World, stage: int):
    large, small = engine(world, stage=stage), engine(world, stage=stage, buckets=1000)
    assert trained(large, 2) == pytest.approx(trained(small, 2), rel=1e-6)
    whole_state(small)
    large.close()
    small.close()


def test_the_forward_pass_reads_the_weights_that_were_loaded(world: World):
    """At stage 3 small parameters stay gathered on every rank and must be gathered anew."""
    for stage in range(4):
        source, target = engine(world, stage=stage), engine(world, stage=stage, model=fresh_model(seed=9))
        trained(source, 5)
        tokens = micro_batches(0)[0]
        target.loss_sum(tokens[:, :-1], tokens[:, 1:])  # which gathers what lies in pieces
        transferred(source, target)
        expected, found = (each.loss_sum(tokens[:, :-1], tokens[:, 1:]) for each in (source, target))
        assert torch.equal(found, expected), stage
        source.close()
        target.close()


def test_what_is_saved_is_live_memory(world: World):
    """A fragment that were a copy would load nothing, silently."""
    for stage in range(4):
        ours = engine(world, stage=stage)
        for fragment in ours.wanted():
            fragment.weight.fill_(0.5)
            fragment.exp_avg.fill_(0.25)
        state = whole_state(ours)
        assert all((state[name] == 0.5).all() for name in state if name.startswith("weight/"))
        assert all((state[name] == 0.25).all() for name in state if name.startswith("exp_avg/"))
        ours.close()
