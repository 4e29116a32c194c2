"""What a run directory remembers of its settings, and what it lets an attempt change."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from conf import compose, leaves, typed
from conf.exits import ConfigError, DatasetError, NoCheckpointError, RefusedError
from pretrain import frozen
from pretrain.config import DELIBERATE, TrainConfig, is_free

LEAVES = dict(leaves(compose("train", ["experiment=smoke", "data.index=DATA/index.json", "run_dir=RUN"])))
LANES = LEAVES["batch.tokens"] // LEAVES["data.sequence_tokens"]
LEAVES["data.lanes"] = LANES  # as the opening of a run settles it
FIXED = sorted(key for key in LEAVES if not is_free(key) and key not in DELIBERATE)
CHANGEABLE = sorted(key for key in LEAVES if is_free(key) and key not in ("run_dir", "data.index"))


def composed(overrides: list[str]) -> DictConfig:
    """Return what a command line means in a directory that has begun: its lanes are settled."""
    return compose("train", [*overrides, f"data.lanes={LANES}"])


def changed(value: Any) -> Any:
    """Return another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return ["other"] if OmegaConf.is_list(value) else 3 if value is None else "other"


@pytest.fixture
def began(tmp_path: Path) -> list[str]:
    """Return the overrides with which a run was begun in tmp_path / run."""
    (tmp_path / "run").mkdir()  # as the lease does
    overrides = ["experiment=smoke", "data.index=DATA/index.json", f"run_dir={tmp_path / 'run'}"]
    raw = frozen.settled(overrides)
    raw.data.lanes = LANES
    frozen.freeze(raw, tmp_path / "run", "fingerprint")
    return overrides


def override(key: str) -> str:
    return f"{key}={json.dumps(changed(LEAVES[key]))}"


def test_a_new_run_is_what_the_command_says(tmp_path: Path):
    overrides = ["experiment=smoke", "seed=5", f"run_dir={tmp_path}"]
    assert frozen.settled(overrides) == compose("train", overrides)


def test_the_run_directory_alone_goes_on_with_what_it_began_with(began: list[str]):
    assert frozen.settled(began[-1:]) == composed(began)
    assert typed(TrainConfig, frozen.settled(began[-1:])).steps == 20


def test_what_the_weights_depend_on_is_fixed():
    """By name, as the list of what is free might come to hold too much."""
    model = {"model.layers", "model.heads", "model.channels", "model.dropout", "model.vocabulary"}
    data = {"data.sequence_tokens", "data.lanes", "data.document_mask", "data.align", "data.synthetic"}
    step = {"seed", "steps", "precision", "schedule.peak", "optim.beta1", "optim.clip_norm"}
    assert (model | data | step) - set(FIXED) == set()


@pytest.mark.parametrize("key", FIXED)
def test_a_setting_that_a_weight_depends_on_cannot_be_changed(began: list[str], key: str):
    with pytest.raises(ConfigError, match=rf"was begun with other settings: .*{key} "):
        frozen.settled([*began, override(key)])


def test_the_global_batch_changes_when_it_is_named_and_the_lanes_stay(began: list[str]):
    found = frozen.settled([*began, "batch.tokens=2048"])
    assert (found.batch.tokens, found.data.lanes) == (2048, LANES)
    assert frozen.settled([began[-1], "batch.tokens=2048"]) == found


@pytest.mark.parametrize("own", ["model.layers=2", "seed=1337", "steps=20 model.channels=32", "model=tiny"])
def test_beside_the_run_directory_alone_a_setting_that_is_the_runs_own_may_be_given(
    began: list[str], own: str, tmp_path: Path
):
    if own == "model=tiny":  # a group stands for all its settings
        saved = OmegaConf.load(tmp_path / "run" / frozen.CONFIG)
        saved.model = compose("train", [own]).model
        (tmp_path / "run" / frozen.CONFIG).write_text(OmegaConf.to_yaml(saved))
    assert frozen.settled([began[-1], *own.split()]) == frozen.settled(began[-1:])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("model.layers=3", "model.layers 2 → 3"),
        ("steps=30 validation.every=7", "steps 20 → 30"),
        ("schedule=wsd", r"schedule.final_fraction 0.1 → 0.0, schedule.peak 0.001 → .* and 1 more"),
        ("~model.layers", "model.layers 2 → None"),
    ],
)
def test_beside_the_run_directory_alone_only_what_is_given_is_compared(
    began: list[str], other: str, told: str
):
    with pytest.raises(ConfigError, match=rf"was begun with other settings: {told}; leave them out"):
        frozen.settled([began[-1], *other.split()])


def test_a_run_that_is_older_than_a_setting_had_its_default(began: list[str], tmp_path: Path):
    path = tmp_path / "run" / frozen.CONFIG
    older = OmegaConf.load(path)
    del older.optim.weight_decay
    path.write_text(OmegaConf.to_yaml(older))
    assert frozen.settled(began) == composed(began)
    with pytest.raises(ConfigError, match=r"optim.weight_decay 0.1 → 0.2"):
        frozen.settled([*began, "optim.weight_decay=0.2"])


@pytest.mark.parametrize("whole", [True, False])
def test_every_setting_that_no_weight_depends_on_can_be_changed(began: list[str], whole: bool):
    """With the whole command or beside the run directory alone."""
    command = began if whole else began[-1:]
    found = dict(leaves(frozen.settled([*command, *map(override, CHANGEABLE)])))
    for key in CHANGEABLE:
        assert found[key] == changed(LEAVES[key]) != LEAVES[key], key
    assert {key: found[key] for key in FIXED} == {key: LEAVES[key] for key in FIXED}


@pytest.mark.parametrize("choice", ["zero=stage3", "tracking=offline", "cluster=local"])
def test_a_free_group_can_be_chosen_anew_beside_the_run_directory_alone(began: list[str], choice: str):
    group = choice.partition("=")[0]
    found = frozen.settled([began[-1], choice])
    assert found[group] == compose("train", [choice])[group]
    assert found.steps == 20


def test_the_refusal_names_the_values_and_the_way_out(began: list[str]):
    with pytest.raises(ConfigError, match=r"seed 1337 → 5, steps 20 → 30; leave them out .*another run_dir"):
        frozen.settled([*began, "seed=5", "steps=30"])
    with pytest.raises(ConfigError, match=r"and 1 more"):
        frozen.settled([*began, "seed=5", "steps=30", "model.layers=3", "model.heads=4"])


@pytest.mark.parametrize("extra", ["validation.evry=3", "+zero.foo=1", "~zero.stage", "foo=1", "zero=stage9"])
def test_an_unknown_setting_is_refused_on_resuming_as_on_beginning(began: list[str], extra: str):
    with pytest.raises(ConfigError):
        typed(TrainConfig, frozen.settled([began[-1], extra]))


def test_a_run_directory_is_found_however_it_is_written(
    began: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Else a run would go on with other settings, unnoticed."""
    monkeypatch.setenv("RUNS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for written in (f"'{tmp_path}/run'", f'"{tmp_path}/run"', "run", "./run/", "${oc.env:RUNS}/run"):
        with pytest.raises(ConfigError, match="was begun with other settings: seed"):
            frozen.settled([*began[:-1], f"run_dir={written}", "seed=5"])


def test_a_missing_run_directory_is_asked_for():
    with pytest.raises(ConfigError, match=r"run_dir has no value; add run_dir=DIRECTORY"):
        frozen.settled(["experiment=smoke"])


def test_editing_the_configuration_files_does_not_change_a_run_that_has_begun(
    began: list[str], tmp_path: Path
):
    path = tmp_path / "run" / frozen.CONFIG
    saved = OmegaConf.load(path)
    assert isinstance(saved, DictConfig)
    saved.optim.beta2 = 0.99  # as if conf/ had had this when the run began
    path.write_text(OmegaConf.to_yaml(saved))
    assert frozen.settled(began[-1:]).optim.beta2 == 0.99
    with pytest.raises(ConfigError, match=r"optim\.beta2 0\.99 → 0\.95"):
        frozen.settled(began)


def test_the_identity_stays_and_another_data_set_is_refused(began: list[str], tmp_path: Path):
    raw = frozen.settled(began)
    first = frozen.freeze(raw, tmp_path / "run", "fingerprint")
    assert frozen.freeze(raw, tmp_path / "run", "fingerprint") == first
    assert frozen.begun(tmp_path / "run") == (typed(TrainConfig, raw), first)
    with pytest.raises(DatasetError, match=r"begun on data set fingerprint…, data\.index now names other"):
        frozen.freeze(raw, tmp_path / "run", "other")


def test_the_hash_of_a_config_sees_what_is_fixed_and_nothing_else(tmp_path: Path):
    base = compose("train", ["experiment=smoke"])
    same = compose("train", ["experiment=smoke", "zero=stage3", "log_every=7", f"run_dir={tmp_path}"])
    other = compose("train", ["experiment=smoke", "seed=2"])
    assert frozen.config_sha256(base) == frozen.config_sha256(same) != frozen.config_sha256(other)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="is not a run directory"):
        frozen.begun(tmp_path)


def test_a_huge_file_is_not_taken_for_a_config(began: list[str], tmp_path: Path):
    (tmp_path / "run" / frozen.CONFIG).write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="is not a run's own config"):
        frozen.settled(began)


def test_resume_is_held_against_what_is_there(tmp_path: Path):
    for mode, has_trained in (("auto", False), ("auto", True), ("must", True), ("never", False)):
        frozen.check_resume(mode, tmp_path, has_trained)
    with pytest.raises(NoCheckpointError, match="use resume=auto"):
        frozen.check_resume("must", tmp_path, False)
    with pytest.raises(RefusedError, match="use another run_dir"):
        frozen.check_resume("never", tmp_path, True)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("+cluster.slurm.api_token=canary", "cluster.slurm.api_token"),
        ("data.index=https://me:canary@host/index.json", "data.index"),
        ("tracking.project='${oc.env:HF_TOKEN}'", "HF_TOKEN"),
        ("tracking.project=canary-canary", "tracking.project"),
        ("seed=${oc.nothing:canary}", "Unsupported interpolation"),
    ],
)
def test_a_secret_is_refused_as_a_setting_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, named: str
):
    monkeypatch.setenv("HF_TOKEN", "canary-canary")
    with pytest.raises(ConfigError, match=named) as caught:
        frozen.settled([f"run_dir={tmp_path}", "steps=1", setting])
    assert "canary" not in str(caught.value) or "interpolation" in named


def test_a_text_in_the_place_of_a_number_is_no_secret(tmp_path: Path):
    """`batch.tokens` is named like one."""
    raw = frozen.settled([f"run_dir={tmp_path}", "steps=1", "data.index=DATA", "batch.tokens=500k"])
    with pytest.raises(ConfigError, match=r"batch\.tokens: '500k' is not a whole number; write 500000"):
        typed(TrainConfig, raw)


@pytest.mark.parametrize(
    "text", ["a: &x [1]\nb: *x\n", "!!python/name:os.system\n", "- 1\n", "a: [\n", "\xff"]
)
def test_a_config_that_we_did_not_write_is_refused_in_one_line(tmp_path: Path, text: str):
    (tmp_path / frozen.CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        frozen.settled([f"run_dir={tmp_path}"])


def test_a_benchmarks_file_is_the_one_beside_whoever_began_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    files = "evaluation.files={text:notes.txt,ptb:s3://bucket/ptb.txt}"
    raw = frozen.settled([f"run_dir={tmp_path}/run", "steps=1", files, "evaluation.shots={text:/a/b.txt}"])
    assert raw.evaluation.files == {"text": f"{tmp_path}/notes.txt", "ptb": "s3://bucket/ptb.txt"}
    assert raw.evaluation.shots == {"text": "/a/b.txt"}
