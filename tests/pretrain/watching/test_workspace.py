"""The W&B workspace shows the same panels as the local page, and reaches the service."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_wandb import LocalWandb
from tracked import clean_environment

from conf.exits import ConfigError
from pretrain.watching.panels import METRICS, SECTIONS
from pretrain.watching.workspace import WorkspaceConfig, workspace

needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed here"
)


def test_an_entity_is_needed_and_asked_for():
    with pytest.raises(ConfigError, match=r"wandb\.entity=YOUR_USER_OR_TEAM"):
        workspace(WorkspaceConfig())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    for name in ("wandb_workspaces", "wandb_workspaces.reports", "wandb_workspaces.reports.v2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'gpt2-pretrain\[workspace\]'"):
        workspace(WorkspaceConfig(entity="me"))


@pytest.mark.slow
@needs_workspaces
def test_publishing_sends_every_panel_of_the_table():
    with LocalWandb() as service:
        command = [
            sys.executable,
            "-m",
            "pretrain.dashboard",
            "publish",
            "wandb.entity=test-team",
            "wandb.project=p",
        ]
        environment = clean_environment(**service.environment)
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert service.unknown == []
        (view,) = service.views
    assert "/test-team/p?nw=" in done.stdout.splitlines()[-1]
    sent = json.dumps(view)
    assert [metric for metric in METRICS if metric not in sent] == []
    assert [section.title for section in SECTIONS if section.title not in sent] == []


@pytest.mark.slow
@needs_workspaces
def test_a_service_that_refuses_is_one_line_and_an_exit_code(tmp_path: Path):
    command = [sys.executable, "-m", "pretrain.dashboard", "publish", "wandb.entity=me"]
    environment = clean_environment(HOME=str(tmp_path), NETRC=os.devnull)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 10
    assert "W&B did not take the workspace" in done.stderr.splitlines()[-1]
