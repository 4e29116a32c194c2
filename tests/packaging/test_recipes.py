"""The recipes around the package: Dockerfile, Apptainer definition, citation, as far as a linter tells."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_dockerfile_passes_its_linter():
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
