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
from pretrain.watching.workspace import workspace

needs_workspaces = pytest.mark.skipif(
    importlib.util.find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed here"
)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    for name in ("wandb_workspaces", "wandb_workspaces.reports", "wandb_workspaces.reports.v2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'gpt2-pretrain\[workspace\]'"):
        workspace("gpt2", "me")


def published(environment: dict[str, str], *settings: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pretrain.dashboard", "--publish", *settings]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
@needs_workspaces
@pytest.mark.parametrize(
    ("given", "environment", "entity"),
    [(["wandb.entity=me"], {}, "me"), ([], {}, "test-team"), ([], {"WANDB_ENTITY": "us"}, "us")],
)
def test_publishing_sends_every_panel_to_whom_is_named_or_logged_in(
    given: list[str], environment: dict[str, str], entity: str
):
    with LocalWandb() as service:
        done = published(clean_environment(**service.environment, **environment), "wandb.project=p", *given)
        assert done.returncode == 0, done.stderr
        assert service.unknown == []
        (view,) = service.views
    assert f"/{entity}/p?nw=" in done.stdout.splitlines()[-1]
    sent = json.dumps(view)
    families = [panel.family for section in SECTIONS for panel in section.panels if panel.family]
    assert [start for start in families if f"^{start}.*" not in sent] == []
    assert [metric for metric in METRICS if not metric.endswith("*") and metric not in sent] == []
    assert [section.title for section in SECTIONS if section.title not in sent] == []


@pytest.mark.slow
@needs_workspaces
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["wandb.entity=me"], ["W&B did not take the workspace"]),
        ([], ["wandb login", "add wandb.entity=YOUR_USER_OR_TEAM"]),
    ],
)
def test_without_an_account_it_is_one_line_and_an_exit_code(
    given: list[str], said: list[str], tmp_path: Path
):
    done = published(clean_environment(HOME=str(tmp_path), NETRC=os.devnull), *given)
    assert done.returncode == 10
    assert all(words in done.stderr.splitlines()[-1] for words in said)
