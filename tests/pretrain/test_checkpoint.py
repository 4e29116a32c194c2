import json
import math
import threading
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from engines import engine, fresh_model, same_bits, trained, whole_state
from safetensors.torch import load_file, save, save_file

from conf.exits import CorruptError, NoCheckpointError
from pretrain.checkpoint import DIRECTORY, CheckpointConfig, Checkpoints, Progress
from pretrain.distributed import World
from pretrain.engine import Engine
from pretrain.pieces import saved_weights
from pretrain.state_file import chunks
from pretrain.storage import commit, lease
from pretrain.stream.detours import Detour

IDENTITY = {"run_id": "run", "config_sha256": "c" * 64, "dataset_fingerprint": "d" * 64}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[lease.Lease]:
    taken = lease.acquire(tmp_path)
    yield taken
    taken.release()


@pytest.fixture
def checkpoints(world: World, tmp_path: Path, held: lease.Lease) -> Checkpoints:
    return Checkpoints(
        tmp_path, world=world, lease=held, identity=IDENTITY, config=CheckpointConfig(keep_last=2)
    )


def progress_of(engine: Engine) -> Progress:
    return Progress(engine.step, 4 * engine.step, 64 * engine.step, 1.25, 1e9)


def saved(checkpoints: Checkpoints, world: World, *steps: int, stage: int = 1) -> Engine:
    """Save after each number of steps; return the engine as it stands after the last."""
    ours = engine(world, stage=stage)
    for step in steps:
        trained(ours, step - ours.step, first=ours.step)
        checkpoints.save(ours, progress_of(ours))
    return ours


def loaded(
    checkpoints: Checkpoints, world: World, *, stage: int = 1
) -> tuple[Engine, Progress | None, list[str]]:
    said: list[str] = []
    ours = engine(world, stage=stage, model=fresh_model(seed=9))
    return ours, checkpoints.load(ours, said.append), said


@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 1), (3, 3), (1, 3), (3, 0)])
def test_what_was_saved_comes_back_to_the_bit(
    checkpoints: Checkpoints, world: World, before: int, after: int
):
    source = saved(checkpoints, world, 3, stage=before)
    target, progress, said = loaded(checkpoints, world, stage=after)
    assert progress == progress_of(source)
    assert (target.step, target.adam_steps, said) == (3, 3, [])
    assert same_bits(whole_state(source), whole_state(target))
    losses = trained(target, 2, first=3)
    expected = trained(source, 2, first=3)
    assert losses == (expected if before == after else pytest.approx(expected, rel=1e-5))


def test_a_new_directory_has_nothing_to_load(checkpoints: Checkpoints, world: World):
    ours, progress, said = loaded(checkpoints, world)
    assert (progress, said, ours.step) == (None, [], 0)


def test_the_weights_alone_are_read_whole_and_in_full_precision(checkpoints: Checkpoints, world: World):
    for stage in (0, 1, 3):
        source = saved(checkpoints, world, 2, stage=stage)
        state = whole_state(source)
        shapes = {name: parameter.shape for name, parameter in fresh_model().named_parameters()}
        weights = saved_weights(checkpoints.root / newest(checkpoints), shapes)
        assert weights.keys() == shapes.keys()
        for name, weight in weights.items():
            assert weight.shape == shapes[name]
            assert torch.equal(weight.flatten(), state[f"weight/{name}"])
        source.close()


def newest(checkpoints: Checkpoints) -> str:
    found = commit.newest_valid(checkpoints.root, **IDENTITY)
    assert found is not None
    return found.path.name


def test_a_damaged_newest_one_is_passed_over_aloud(checkpoints: Checkpoints, world: World):
    saved(checkpoints, world, 2, 4)
    file = next((checkpoints.root / newest(checkpoints)).glob("state-*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    _, progress, said = loaded(checkpoints, world)
    assert progress is not None
    assert progress.step == 2
    assert len(said) == 1
    assert said[0].startswith("passed over ")


def test_a_directory_whose_every_checkpoint_is_damaged_does_not_begin_anew(
    checkpoints: Checkpoints, world: World
):
    saved(checkpoints, world, 2, 4)
    for file in checkpoints.root.glob("*/state-*"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(NoCheckpointError):
        loaded(checkpoints, world)


def test_a_piece_that_is_missing_is_an_error_and_not_a_zero(tmp_path: Path):
    """As if a rank's file had been left out of the manifest, so that every hash is right."""
    tensors = {"weight/w@0": torch.ones(4), "weight/w@6": torch.ones(2)}
    save_file(tensors, tmp_path / "state-00000-of-00002.safetensors")
    with pytest.raises(CorruptError, match=r"8 elements of weight/w once: .* at element 4"):
        saved_weights(tmp_path, {"w": torch.Size([2, 4])})
    with pytest.raises(CorruptError, match=r"3 elements of weight/v once: .* at element 0"):
        saved_weights(tmp_path, {"v": torch.Size([3])})


def test_pieces_of_several_ranks_meet_wherever_they_are_cut(tmp_path: Path):
    whole = torch.arange(100.0)
    cuts = [0, 1, 33, 34, 90, 100]
    for rank, (start, end) in enumerate(pairwise(cuts)):
        path = tmp_path / f"state-{rank:05d}-of-00005.safetensors"
        save_file({f"weight/w@{start}": whole[start:end].clone()}, path)
    assert torch.equal(saved_weights(tmp_path, {"w": torch.Size([10, 10])})["w"], whole.view(10, 10))


def test_two_files_that_hold_the_same_element_are_an_error(tmp_path: Path):
    for rank in range(2):
        save_file({"weight/w@0": torch.ones(4)}, tmp_path / f"state-{rank:05d}-of-00002.safetensors")
    with pytest.raises(CorruptError):
        saved_weights(tmp_path, {"w": torch.Size([4])})
    with pytest.raises(CorruptError):  # as many elements as there should be, half of them twice
        saved_weights(tmp_path, {"w": torch.Size([8])})


def test_a_state_is_free_of_pickle_and_holds_fp32(checkpoints: Checkpoints, world: World):
    saved(checkpoints, world, 1)
    directory = checkpoints.root / newest(checkpoints)
    assert {path.suffix for path in directory.iterdir()} == {".safetensors", ".json"}
    for file in directory.glob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float32}


def test_what_is_copied_for_saving_does_not_change_while_training_goes_on(
    checkpoints: Checkpoints, world: World, monkeypatch: pytest.MonkeyPatch
):
    """The thread, here kept waiting, writes a copy; a view would hold weights of a later step."""
    may_write = threading.Event()

    def late(tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
        may_write.wait(60)
        return chunks(tensors)

    monkeypatch.setattr("pretrain.state_file.chunks", late)
    ours = engine(world, stage=1)
    trained(ours, 2)
    expected = whole_state(ours)
    checkpoints.begin(ours, progress_of(ours))
    trained(ours, 3, first=2)
    may_write.set()
    checkpoints.settle()
    target, progress, _ = loaded(checkpoints, world)
    assert progress is not None
    assert progress.step == 2
    assert same_bits(whole_state(target), expected)


@pytest.mark.parametrize("sizes", [(), (1,), (3, 1, 500), (8, 8)])
def test_a_state_file_is_what_safetensors_would_write(sizes: tuple[int, ...]):
    """The dashes, the quote and the order of the names are traps of the header."""
    names = ("weight/b@12", 'exp_avg/ä-é"@0', "weight/a@3")
    tensors = {name: torch.randn(size) for name, size in zip(names, sizes, strict=False)}
    assert b"".join(map(bytes, chunks(tensors))) == save(tensors)


def test_the_newest_states_stay_and_older_ones_go(checkpoints: Checkpoints, world: World):
    saved(checkpoints, world, 1, 2, 3, 4)
    kept = [commit.verify(path).step for path in commit.checkpoints(checkpoints.root)]
    assert sorted(kept) == [3, 4]


def test_the_state_of_another_run_is_not_loaded(checkpoints: Checkpoints, world: World, tmp_path: Path):
    saved(checkpoints, world, 2)
    for name in IDENTITY:
        identity = {**IDENTITY, name: "e" * 64}
        other = Checkpoints(tmp_path, world=world, lease=None, identity=identity, config=CheckpointConfig())
        with pytest.raises(ValueError, match=r".+"):
            loaded(other, world)


def test_progress_is_plain_data_and_comes_back_from_json():
    progress = Progress(3, 12, 768, 4.5, 1.7e9)
    assert Progress(**json.loads(json.dumps(vars(progress)))) == progress


def test_a_skipped_step_is_known_after_loading(checkpoints: Checkpoints, world: World):
    """The moments have seen fewer updates than there were steps, and Adam's correction depends on it."""
    ours = engine(world, stage=1)
    trained(ours, 2)
    ours.resumed_at(5, 2)
    checkpoints.save(ours, progress_of(ours))
    target, _, _ = loaded(checkpoints, world)
    assert (target.step, target.adam_steps) == (5, 2)
    assert trained(target, 1, first=5) == trained(ours, 1, first=5)


@pytest.mark.parametrize(
    "wrong",
    [{"every": -1}, {"minutes": 0.0}, {"minutes": math.nan}, {"keep_last": 1}, {"keep_every": 0}],
)
def test_a_value_out_of_range_is_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match=rf"checkpoint\.{next(iter(wrong))}"):
        CheckpointConfig(**wrong)  # pyright: ignore[reportArgumentType]


def test_checkpoints_lie_in_a_folder_of_their_own(checkpoints: Checkpoints, tmp_path: Path):
    assert checkpoints.root == tmp_path / DIRECTORY


def test_states_that_a_detour_leaves_behind_are_moved_aside_and_never_loaded(
    world: World, checkpoints: Checkpoints
):
    """States after 8, 12 and 16 sequences; the detour from 8 to 16 leaves the last two behind."""
    checkpoints._config = CheckpointConfig(keep_last=3)
    saved(checkpoints, world, 2, 3, 4)
    ours = engine(world, stage=1, model=fresh_model(seed=9))
    said: list[str] = []
    progress = checkpoints.load(ours, said.append, [Detour(8, 16)])
    assert progress is not None
    assert (progress.step, progress.sequences) == (2, 8)
    assert [each.partition(":")[0] for each in said] == [
        "passed over step-00000004",
        "passed over step-00000003",
    ]
    assert "roll-back" in (checkpoints.root / ".bad-step-00000004.reason.txt").read_text()


def test_the_newest_position_is_that_of_a_whole_state(world: World, checkpoints: Checkpoints):
    checkpoints._config = CheckpointConfig(keep_last=3)
    saved(checkpoints, world, 2, 3, 4)
    assert [checkpoints.newest_position(most) for most in (7, 8, 15, 99)] == [None, 8, 12, 16]
    (file,) = (checkpoints.root / "step-00000003").glob("state-*")
    file.write_bytes(file.read_bytes()[:-1])
    assert checkpoints.newest_position(15) == 8
