import math

import pytest
import torch
from omegaconf import OmegaConf

from conf import DIRECTORY
from pretrain.cross_entropy import IGNORED
from pretrain.export import hugging_face_config, hugging_face_weights
from pretrain.model import GPT, GPTConfig, hugging_face_names, initialise, parameter_count

TINY = GPTConfig(layers=2, heads=2, channels=32, context=16, vocabulary=200, padded_vocabulary=256)
# Radford et al., 2019, with the tied head counted once; as OpenAI's files hold them.
PUBLISHED = {
    "gpt2_124m": 124_439_808,
    "gpt2_355m": 354_823_168,
    "gpt2_774m": 774_030_080,
    "gpt2_1558m": 1_557_611_200,
}


def tiny(seed: int = 0, **changed: float) -> GPT:
    model = GPT(GPTConfig(**{**vars(TINY), **changed}))
    initialise(model, seed)
    return model.eval()


def randomised(seed: int = 1) -> GPT:
    """Return a tiny model whose every tensor is random, so that no bias or scale hides behind 0 or 1."""
    model = tiny()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(TINY.vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_four_sizes_have_the_published_number_of_parameters(name: str):
    raw = OmegaConf.to_container(OmegaConf.load(DIRECTORY / "model" / f"{name}.yaml"))
    assert isinstance(raw, dict)
    with torch.device("meta"):
        model = GPT(GPTConfig(**raw))  # pyright: ignore[reportCallIssue]
    assert parameter_count(model) == PUBLISHED[name]
    assert (
        sum(parameter.numel() for parameter in model.parameters()) - PUBLISHED[name] == 47 * raw["channels"]
    )


def test_the_logits_are_those_of_transformers_for_the_exported_weights():
    transformers = pytest.importorskip("transformers")
    model = randomised()
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**hugging_face_config(TINY))).eval()
    missing, unexpected = theirs.load_state_dict(hugging_face_weights(model), strict=False)
    assert unexpected == []
    assert missing == ["lm_head.weight"], "only what is tied to the embedding"
    inputs = tokens(3, TINY.context)
    with torch.no_grad():
        expected = theirs(inputs).logits
        found = model.logits(inputs)
    assert found.shape == (3, TINY.context, TINY.vocabulary)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert expected.std() > 1, "logits that say something"


def test_the_loss_is_the_cross_entropy_of_the_logits():
    model, inputs, targets = randomised(), tokens(2, 16), tokens(2, 16, seed=1)
    targets[0, 3] = IGNORED
    logits = model.logits(inputs).flatten(0, 1)
    for reduction in ("mean", "sum"):
        expected = torch.nn.functional.cross_entropy(
            logits, targets.flatten(), ignore_index=IGNORED, reduction=reduction
        )
        torch.testing.assert_close(model(inputs, targets, reduction), expected)


def test_a_fresh_model_of_the_usual_vocabulary_is_nearly_uniform():
    model, inputs = tiny(), tokens(8, 16)
    assert model(inputs, tokens(8, 16, seed=1)).item() == pytest.approx(math.log(200), abs=0.05)


def test_a_token_changes_no_logit_before_it():
    model, inputs = randomised(), tokens(1, 16)
    before = model.logits(inputs)
    for position in range(16):
        changed = inputs.clone()
        changed[0, position] = (changed[0, position] + 1) % TINY.vocabulary
        after = model.logits(changed)
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=1e-5)
        assert (after[:, position:] - before[:, position:]).abs().amax(dim=2).min() > 1e-5, position


def test_sequences_of_a_batch_do_not_see_one_another():
    model, inputs = randomised(), tokens(4, 16)
    together = model.logits(inputs)
    for number in range(4):
        torch.testing.assert_close(model.logits(inputs[number : number + 1])[0], together[number])


def test_padded_rows_are_zero_and_never_learn():
    model = tiny()
    assert model.wte.weight[TINY.vocabulary :].count_nonzero() == 0
    model(tokens(2, 8), tokens(2, 8, seed=1)).backward()
    assert model.wte.weight.grad is not None
    assert model.wte.weight.grad[TINY.vocabulary :].count_nonzero() == 0
    assert model.wte.weight.grad[: TINY.vocabulary].abs().sum(dim=1).min() > 0, "tied: the head reaches all"


def test_tensors_begin_as_gpt2s_do():
    model = GPT(
        GPTConfig(layers=8, heads=4, channels=128, context=64, vocabulary=1000, padded_vocabulary=1024)
    )
    initialise(model, 0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert parameter.count_nonzero() == 0, name
        elif ".ln_" in f".{name}":
            assert (parameter == 1).all(), name
        else:
            values = parameter[:1000] if name == "wte.weight" else parameter
            std = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
            assert values.std().item() == pytest.approx(std, rel=0.03), name
            assert abs(values.mean().item()) < 5 * std / math.sqrt(values.numel()), name


def test_projections_that_begin_at_zero_pass_the_input_on_and_change_no_other_tensor():
    usual, zero = tiny(), tiny(zero_projections=True)
    batch = tokens(2, 16)
    embedded = zero.wte(batch) + zero.wpe(torch.arange(16))
    expected = zero.ln_f(embedded) @ zero.wte.weight[: TINY.vocabulary].T
    torch.testing.assert_close(zero(batch)[..., : TINY.vocabulary], expected)
    for (name, one), other in zip(usual.named_parameters(), zero.parameters(), strict=True):
        assert other.eq(0).all() if name.endswith("c_proj.weight") else other.equal(one), name


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    first, same, other = (dict(tiny(seed).named_parameters()) for seed in (3, 3, 4))
    for name, parameter in first.items():
        assert torch.equal(parameter, same[name]), name
        assert parameter.dim() < 2 or not torch.equal(parameter, other[name]), name


def test_no_two_tensors_begin_alike():
    weights = [p.detach().flatten()[:64] for p in tiny().parameters() if p.dim() == 2]
    assert len({tuple(weight.tolist()) for weight in weights}) == len(weights)
    scaled = [weight / weight.std() for weight in weights]
    matches = [torch.allclose(a, b, atol=1e-3) for n, a in enumerate(scaled) for b in scaled[:n]]
    assert not any(matches), "nor in other sizes"


def test_the_weights_do_not_depend_on_the_generator_of_the_process():
    torch.manual_seed(1)
    first = tiny().wte.weight
    torch.manual_seed(2)
    assert torch.equal(first, tiny().wte.weight)


def test_dropout_acts_in_training_alone():
    model, inputs, targets = tiny(dropout=0.5), tokens(2, 16), tokens(2, 16, seed=1)
    assert model(inputs, targets) == model(inputs, targets)
    assert model(inputs, targets) == tiny()(inputs, targets)
    model.train()
    assert model(inputs, targets) != model(inputs, targets)


def test_without_dropout_training_and_evaluation_are_one():
    model, inputs, targets = randomised(), tokens(2, 16), tokens(2, 16, seed=1)
    evaluated = model(inputs, targets)
    assert model.train()(inputs, targets) == evaluated


def test_a_sequence_shorter_than_the_context_is_taken_and_a_longer_one_is_an_error():
    assert tiny().logits(tokens(1, 3)).shape == (1, 3, TINY.vocabulary)
    with pytest.raises(IndexError):
        tiny().logits(tokens(1, 17))


def test_the_names_are_hugging_faces_and_each_tensor_has_one():
    ours, theirs, transposed = zip(*hugging_face_names(TINY), strict=True)
    assert list(ours) == [name for name, _ in tiny().named_parameters()]
    assert "transformer.h.1.attn.c_attn.weight" in theirs
    assert sum(transposed) == 4 * TINY.layers


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"heads": 5}, "use 30"),
        ({"layers": 0}, "at least 1"),
        ({"padded_vocabulary": 199}, "multiple of 64"),
        ({"dropout": 1.0}, r"\[0, 1\)"),
    ],
)
def test_a_shape_that_is_none_is_refused_with_the_way_out(wrong: dict[str, float], says: str):
    with pytest.raises(ValueError, match=says):
        GPTConfig(**{**vars(TINY), **wrong})
