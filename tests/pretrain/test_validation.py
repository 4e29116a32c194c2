import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from data_prep.index import read_index
from pretrain.distributed import World
from pretrain.model import GPT, GPTConfig, initialise
from pretrain.stream.sequences import Sequences
from pretrain.validation import Validation, ValidationConfig

T = 64


def model() -> GPT:
    gpt = GPT(
        GPTConfig(layers=1, heads=2, channels=16, context=T, vocabulary=50_257, padded_vocabulary=50_304)
    )
    initialise(gpt, 0)
    with torch.no_grad():
        gpt.wte.weight.mul_(20)  # so that tokens differ in probability
    return gpt.eval()


def sequences(index: Path) -> Sequences:
    return Sequences(read_index(index), "validation", T, cached_blocks=2)


def by_hand(gpt: GPT, source: Sequences, count: int) -> float:
    """Score the first `count` sequences of the split one by one."""
    places = [(block, row) for block, rows in enumerate(source.rows_per_block) for row in range(rows)]
    losses = []
    for place in places[:count]:
        tokens = torch.from_numpy(source.row(*place).astype("int64"))
        losses.append(F.cross_entropy(gpt.logits(tokens[None, :-1])[0], tokens[1:]).item())
    assert len(losses) == count
    return sum(losses) / count


@torch.no_grad()
@pytest.mark.parametrize(("count", "micro"), [(7, 4), (8, 4), (1, 8), (70, 8)])
def test_the_loss_is_that_of_a_plain_loop(world: World, tiny_index: Path, count: int, micro: int):
    gpt, source = model(), sequences(tiny_index)
    validation = Validation(source, ValidationConfig(tokens=count * T, micro_sequences=micro), T)

    def loss_sum(inputs: Tensor, targets: Tensor) -> Tensor:
        assert inputs.shape == targets.shape == (micro, T), "the shape never changes"
        return gpt(inputs, targets, reduction="sum")

    assert validation.tokens == count * T
    assert validation.loss(loss_sum, world) == pytest.approx(by_hand(gpt, source, count), rel=1e-5)


def test_it_takes_no_more_than_there_is_and_rounds_up_to_a_sequence(tiny_index: Path):
    source = sequences(tiny_index)
    assert Validation(source, ValidationConfig(tokens=10**9), T).count == len(source)
    assert Validation(source, ValidationConfig(tokens=T + 1), T).count == 2


def test_every_token_weighs_the_same_whatever_the_micro_batch(world: World, tiny_index: Path):
    gpt, source = model(), sequences(tiny_index)
    losses = []
    with torch.no_grad():
        for micro in (1, 3, 16):
            config = ValidationConfig(tokens=11 * T, micro_sequences=micro)
            losses.append(Validation(source, config, T).loss(lambda x, y: gpt(x, y, reduction="sum"), world))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


_RANK = """
import sys
sys.path.insert(0, {folder!r})
import torch
from pathlib import Path
from test_validation import T, Validation, ValidationConfig, model, sequences
from pretrain.distributed import joined

with joined() as world, torch.no_grad():
    gpt, calls = model(), 0
    def loss_sum(inputs, targets):
        global calls
        calls += 1
        return gpt(inputs, targets, reduction="sum")
    config = ValidationConfig(tokens=int(sys.argv[2]) * T, micro_sequences=2)
    loss = Validation(sequences(Path(sys.argv[1])), config, T).loss(loss_sum, world)
    Path(sys.argv[3], f"rank-{{world.rank}}").write_text(f"{{loss!r}} {{calls}}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [7, 1])
def test_two_ranks_find_what_one_finds_and_call_the_model_equally_often(
    tiny_index: Path, tmp_path: Path, count: int
):
    """Seven sequences: one rank has four, the other three; and with one, a rank has none."""
    script = _RANK.format(folder=str(Path(__file__).parent))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", "--no-python", sys.executable, "-c", script]
    done = subprocess.run(
        [*command, str(tiny_index), str(count), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [(tmp_path / f"rank-{rank}").read_text().split() for rank in (0, 1)]
    assert found[0] == found[1], "the same loss and the same number of calls on both ranks"
    with torch.no_grad():
        expected = by_hand(model(), sequences(tiny_index), count)
    assert float(found[0][0]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("wrong", [{"every": -1}, {"tokens": 0}, {"micro_sequences": 0}])
def test_a_value_out_of_range_is_refused(wrong: dict[str, int]):
    with pytest.raises(ValueError, match=rf"validation\.{next(iter(wrong))}"):
        ValidationConfig(**wrong)


def test_a_model_that_knows_nothing_scores_the_logarithm_of_its_vocabulary(world: World, tiny_index: Path):
    validation = Validation(sequences(tiny_index), ValidationConfig(tokens=5 * T), T)

    def uniform(_: Tensor, targets: Tensor) -> Tensor:
        return (targets >= 0).sum() * math.log(50_257)

    assert validation.loss(uniform, world) == pytest.approx(math.log(50_257))
