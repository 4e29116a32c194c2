import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conf.exits import ConfigError, RefusedError
from data_prep.tokenizer import load_tokenizer
from pretrain import export, trained

pytestmark = pytest.mark.slow  # a real run has to be trained first
transformers = pytest.importorskip("transformers")

TEXT = "It's naïve: 北京大学 🙂\n\n\tdef f(x):  return x**2  # 3,141\r\n<|notatoken|>"


@pytest.fixture(scope="module")
def folder(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export of the run, of which nothing was evaluated yet."""
    place = tmp_path_factory.mktemp("exported")
    run_dir = shutil.copytree(tiny_run, place / "run", ignore=shutil.ignore_patterns("evaluations.jsonl"))
    export.main([f"run_dir={run_dir}", f"output={place}/hf"])
    return place / "hf"


def test_transformers_loads_it_and_finds_our_logits(tiny_run: Path, folder: Path):
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(theirs, transformers.GPT2LMHeadModel)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ours = trained.load(tiny_run).model
    inputs = torch.randint(50_257, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(inputs), theirs.eval()(inputs).logits, rtol=0, atol=1e-4)
    assert theirs.config.vocab_size == 50_257
    assert theirs.get_output_embeddings().weight is theirs.get_input_embeddings().weight


def test_its_tokenizer_is_ours(folder: Path):
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer()
    assert theirs(TEXT)["input_ids"] == list(ours.encode(TEXT))
    assert theirs.decode(theirs(TEXT)["input_ids"], clean_up_tokenization_spaces=False) == TEXT
    assert theirs.eos_token_id == theirs.bos_token_id == ours.end_of_text == 50_256
    assert theirs("<|endoftext|>")["input_ids"] == [50_256]
    assert theirs.model_max_length == 64


def test_the_padding_is_gone_and_every_tensor_is_fp32(folder: Path):
    tensors = load_file(folder / "model.safetensors")
    assert tensors["transformer.wte.weight"].shape == (50_257, 32)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert "lm_head.weight" not in tensors


def test_the_model_card_says_where_the_weights_come_from(tiny_run: Path, folder: Path):
    card = (folder / "README.md").read_text()
    identity = json.loads((tiny_run / "run.json").read_text())
    rows = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    loss = [row["val/loss"] for row in rows if "val/loss" in row][-1]
    parameters = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    facts = [
        identity["run_id"],
        identity["dataset_fingerprint"],
        f"{loss:.4f} nats per token",
        "20 of 20",
        "pretrain.evaluate",
    ]
    for fact in [*facts, "20,480", f"{parameters:,} parameters"]:
        assert fact in card, fact


def test_nothing_else_is_left_in_the_folder(folder: Path):
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.json",
    }


def test_exporting_again_gives_the_same_bytes(tiny_run: Path, tmp_path: Path):
    found = []
    for _ in range(2):
        export.main([f"run_dir={tiny_run}", f"output={tmp_path}/hf"])
        files = (tmp_path / "hf").iterdir()
        found.append({path.name: hashlib.sha256(path.read_bytes()).digest() for path in files})
    assert found[0] == found[1]
    assert "README.md" in found[0]


def test_a_folder_with_other_files_is_refused_and_left_alone(tiny_run: Path, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RefusedError, match="holds other files"):
        export.main([f"run_dir={tiny_run}", f"output={tmp_path}"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_somebody_elses_model_is_not_overwritten(tiny_run: Path, tmp_path: Path):
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / name).write_text("theirs")
    with pytest.raises(RefusedError, match=r"holds other files \(tokenizer\.json\)"):
        export.main([f"run_dir={tiny_run}", f"output={tmp_path}"])
    assert {path.read_text() for path in tmp_path.iterdir()} == {"theirs"}


def test_a_file_in_the_place_of_the_folder_is_refused(tiny_run: Path, tmp_path: Path):
    (tmp_path / "hf").write_text("mine")
    with pytest.raises(RefusedError, match="is a file"):
        export.main([f"run_dir={tiny_run}", f"output={tmp_path / 'hf'}"])
    assert (tmp_path / "hf").read_text() == "mine"


def test_a_place_where_no_folder_can_be_is_refused(tiny_run: Path):
    with pytest.raises(ConfigError, match="/proc/hf cannot be a folder"):
        export.main([f"run_dir={tiny_run}", "output=/proc/hf"])


def test_an_export_that_was_interrupted_can_be_repeated(tiny_run: Path, folder: Path, tmp_path: Path):
    """Without its weights the folder is not whole, but all that it holds is ours."""
    for name in ("config.json", "merges.txt", "model.safetensors.tmp"):
        (tmp_path / name).write_bytes(b"half")
    export.main([f"run_dir={tiny_run}", f"output={tmp_path}"])
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folder.iterdir()}
