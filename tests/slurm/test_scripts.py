"""The shell scripts are clean, and their first lines can be used as they stand."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    *sorted((ROOT / "slurm").glob("*.sbatch")),
    ROOT / "tests" / "slurm" / "cluster",
    ROOT / ".ci" / "run",
]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed; .ci/run installs it")
def test_a_script_passes_shellcheck(script: Path):
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_signal_before_the_supervisor_listens_does_not_end_the_job(tmp_path: Path):
    early = tmp_path / "early.sh"
    early.write_text("kill -USR1 $$; kill -TERM $$; kill -USR2 $$\n")
    environment = {"PATH": "/usr/bin:/bin", "GPT2_CODE": str(ROOT), "GPT2_ENVIRONMENT": str(early)}
    done = subprocess.run(
        ["bash", ROOT / "slurm" / "train.sbatch", "run_dir=a b"],
        env={**environment, "GPT2_PYTHON": "/bin/echo"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "-m slurm.supervisor run_dir=a b\n"), done.stderr


def test_every_cluster_file_is_complete_and_understood():
    from conf import compose, typed
    from pretrain.config import ClusterConfig
    from slurm.site import environment_file, site

    names = {path.stem for path in (ROOT / "conf" / "cluster").glob("*.yaml")}
    assert {"local", "slurm", "h100x8_infiniband", "a100x4", "cpu", "test"} <= names
    assert {"h100x8_pyxis", "a100x4_apptainer"} <= names
    for name in names:
        raw = compose("train", [f"cluster={name}", "run_dir=x"])
        assert typed(ClusterConfig, raw.cluster).name == name
        assert site(raw.cluster).train.ranks_per_node >= 1
        script = environment_file(site(raw.cluster))
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
