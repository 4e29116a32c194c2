from pathlib import Path

import pytest

from conf.exits import ConfigError
from data_prep.tokenizer import load_tokenizer
from pretrain import sample
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.sample import SampleConfig, samples, streamed


def model() -> GPT:
    gpt = GPT(
        GPTConfig(layers=1, heads=2, channels=16, context=16, vocabulary=50_257, padded_vocabulary=50_304)
    )
    initialise(gpt, 0)
    return gpt.eval()


def test_what_is_streamed_is_the_sample():
    config = SampleConfig(tokens=25, temperature=1.5, top_k=0, seed=2)
    (whole,) = samples(model(), "it was", config, load_tokenizer())
    parts = list(streamed(model(), "it was", config, load_tokenizer()))
    assert "".join(parts) == whole
    assert sum(map(bool, parts)) > 5


def test_a_form_decides_how_it_is_drawn_but_for_what_is_given():
    assert SampleConfig().drawing.temperature == 0.8
    form = SampleConfig(form="summarise")
    assert (form.drawing.top_k, form.drawing.temperature) == (2, 1.0)
    assert SampleConfig(form="summarise", top_k=0, tokens=3).drawing.top_k is None
    assert SampleConfig(form="answer", stop=["."]).stops == [".", "\n"]


@pytest.mark.parametrize(
    "wrong",
    [{"tokens": 0}, {"samples": 0}, {"temperature": -1.0}, {"top_p": 2.0}, {"form": "rap"}, {"seed": -1}],
)
def test_a_value_out_of_range_is_refused_by_its_name(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SampleConfig(**wrong)  # pyright: ignore[reportArgumentType]


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
    sample.main(
        [f"run_dir={tiny_run}", "prompt=it was, {the} 北京", "tokens=5", "temperature=0", "stream=always"]
    )
    assert capsys.readouterr().out == first


@pytest.mark.slow
def test_prompts_come_from_a_file_and_a_sample_without_one_begins_a_document(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "prompts.txt").write_text("one\\ntwo\n\nthree\n")
    sample.main([f"run_dir={tiny_run}", f"prompts_file={tmp_path / 'prompts.txt'}", "tokens=3"])
    printed = capsys.readouterr()
    assert printed.err == ""
    first, second = printed.out.split("---\n")
    assert first.startswith("one\ntwo")
    assert second.startswith("three")
    sample.main([f"run_dir={tiny_run}", "tokens=3"])
    printed = capsys.readouterr()
    assert "<|endoftext|>" not in printed.out
    assert printed.err == "no prompt=… is given: a text of the model's own, from its beginning\n"
    with pytest.raises(ConfigError, match="cannot be read"):
        sample.main([f"run_dir={tiny_run}", "prompts_file=nowhere.txt"])


def test_a_folder_without_a_run_is_refused_and_so_is_no_model_at_all(tmp_path: Path):
    with pytest.raises(ConfigError, match="is not a run directory"):
        sample.main([f"run_dir={tmp_path}"])
    with pytest.raises(ConfigError, match="run_dir=RUN, or hf=FOLDER"):
        sample.main([])
