"""The recipes around the package: Dockerfile, Apptainer definition, citation, as far as a linter tells."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# Of Apptainer 1.4's definition files, and those of them that are shell scripts.
SHELL = {"pre", "setup", "post", "environment", "startscript", "runscript", "test"}
SECTIONS = SHELL | {"arguments", "files", "labels", "help"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_dockerfile_passes_its_linter():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def sections(definition: str) -> dict[str, str]:
    """Return the text of each section of an Apptainer definition by its name; "" is the header's."""
    parts = re.split(r"^%(\w+)[^\n]*\n", definition, flags=re.M)
    assert len(parts[1::2]) == len(set(parts[1::2])), "a section comes twice"
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def complaints(definition: str) -> list[str]:
    """Return what is wrong with an Apptainer definition, as far as that can be told without building it."""
    found = sections(definition)
    header = [line for line in found.pop("").splitlines() if line.strip() and not line.startswith("#")]
    wrong = [line for line in header if not re.match(r"(Bootstrap|From|Stage): \S+$", line)]
    wrong += [f"%{name} is not a section" for name in found if name not in SECTIONS]
    for line in found.get("files", "").splitlines():
        source, target = line.split() if line.strip() else (".", "/")
        if not (ROOT / source).exists() or not target.startswith("/"):
            wrong.append(f"%files: {line.strip()}")
    for name in SHELL & found.keys():
        done = subprocess.run(
            ["shellcheck", "--shell=sh", "-"], input=found[name], capture_output=True, text=True, check=False
        )
        wrong += [f"%{name}: {done.stdout}"] if done.returncode else []
    return wrong


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed; .ci/run installs it")
def test_the_apptainer_definition_is_clean_and_a_broken_one_is_found():
    definition = (ROOT / "apptainer.def").read_text()
    assert complaints(definition) == []
    for good, bad in (
        ("%post", "%posts"),
        ("From: ", "Form: "),
        ("    conf /opt", "    config /opt"),
        ("    set -e\n", "    set -e\n    cd $UNKNOWN DIRECTORY\n"),
    ):
        assert good in definition
        assert complaints(definition.replace(good, bad, 1)) != [], bad


def test_both_recipes_carry_every_package_and_the_same_base():
    docker, apptainer = (ROOT / "Dockerfile").read_text(), (ROOT / "apptainer.def").read_text()
    for package in ("conf", "data_prep", "pretrain", "slurm"):
        assert re.search(rf"^COPY {package} ", docker, re.M), package
        assert re.search(rf"^ +{package} /", apptainer, re.M), package
    images = re.search(r"^FROM (\S+)", docker, re.M), re.search(r"^From: (\S+)", apptainer, re.M)
    assert images[0] is not None
    assert images[1] is not None
    assert images[0][1] == images[1][1]


def test_the_citation_names_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"]
    assert citation["message"]
