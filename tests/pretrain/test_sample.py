from pathlib import Path

import pytest
import torch

from conf.exits import ConfigError
from pretrain import sample
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.sample import SampleConfig, completed, next_token

TINY = GPTConfig(layers=1, heads=2, channels=16, context=8, vocabulary=20, padded_vocabulary=64)


def model() -> GPT:
    gpt = GPT(TINY)
    initialise(gpt, 0)
    with torch.no_grad():
        gpt.wte.weight.mul_(50)
    return gpt.eval()


def config(**changed: object) -> SampleConfig:
    return SampleConfig(run_dir="RUN", **changed)  # pyright: ignore[reportArgumentType]


def drawn(seed: int = 0, end_of_text: int = -1, **changed: object) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return completed(model(), [1, 2], config(**changed), end_of_text=end_of_text, generator=generator)


def test_a_greedy_sample_is_the_most_probable_token_each_time_past_the_context_too():
    ids = [1, 2]
    with torch.no_grad():
        for _ in range(20):
            ids.append(int(model().logits(torch.tensor([ids[-8:]]))[0, -1].argmax()))
    assert drawn(temperature=0.0, tokens=20) == drawn(seed=1, temperature=0.0, tokens=20) == ids


def test_the_seed_decides_what_is_drawn():
    assert drawn(seed=3, tokens=30, temperature=2.0) == drawn(seed=3, tokens=30, temperature=2.0)
    assert drawn(seed=3, tokens=30, temperature=2.0) != drawn(seed=4, tokens=30, temperature=2.0)


def test_an_end_of_text_ends_the_sample_and_is_not_part_of_it():
    whole = drawn(temperature=0.0, tokens=10)
    assert drawn(temperature=0.0, tokens=10, end_of_text=whole[2]) == [1, 2]


def test_no_token_of_the_padding_is_ever_drawn():
    assert max(drawn(tokens=300, temperature=100.0, top_k=None)) < TINY.vocabulary


def test_the_top_k_and_the_temperature_make_the_distribution_that_they_promise():
    """20,000 draws against the softmax of the three largest logits at temperature 0.5."""
    logits = torch.tensor([0.1, 1.0, 0.5, -2.0, 0.8])
    generator = torch.Generator().manual_seed(0)
    settings = config(temperature=0.5, top_k=3)
    draws = torch.tensor([next_token(logits, settings, generator) for _ in range(20_000)])
    found = draws.bincount(minlength=5) / len(draws)
    expected = torch.zeros(5)
    expected[[1, 2, 4]] = torch.softmax(logits[[1, 2, 4]] / 0.5, 0)
    assert torch.allclose(found, expected, atol=0.015)
    assert found[0] == found[3] == 0


def test_a_top_k_beyond_the_vocabulary_takes_all():
    logits = torch.zeros(4)
    generator = torch.Generator().manual_seed(0)
    assert {next_token(logits, config(top_k=10), generator) for _ in range(200)} == {0, 1, 2, 3}


@pytest.mark.parametrize("wrong", [{"tokens": 0}, {"samples": 0}, {"temperature": -1.0}, {"top_k": 0}])
def test_a_value_out_of_range_is_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        config(**wrong)


def test_a_temperature_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="temperature"):
        config(temperature=float("nan"))


@pytest.mark.slow
def test_the_command_prints_the_prompt_and_goes_on(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    outputs = []
    for _ in range(2):
        sample.main(
            [f"run_dir={tiny_run}", "prompt=it was, {the} 北京", "tokens=5", "temperature=0", "samples=2"]
        )
        outputs.append(capsys.readouterr().out)
    first, second = outputs[0].split("---\n")
    assert outputs[0] == outputs[1]
    assert first == second
    assert first.startswith("it was, {the} 北京")
    assert len(first) > len("it was, {the} 北京\n")


@pytest.mark.slow
def test_without_a_prompt_it_begins_a_document(tiny_run: Path, capsys: pytest.CaptureFixture[str]):
    sample.main([f"run_dir={tiny_run}", "tokens=3"])
    assert "<|endoftext|>" not in capsys.readouterr().out


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="is not a run directory"):
        sample.main([f"run_dir={tmp_path}"])
