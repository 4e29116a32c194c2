"""The W&B workspace of a project, built from the same table of panels as the local page."""

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from conf.exits import ConfigError
from pretrain.watching.panels import SECTIONS, Panel
from pretrain.watching.wandb_sink import default_entity

TITLE = "Pretraining"
_SMOOTHING = 30  # per cent
_NOT_KNOWN = "no entity is given, and W&B names none"
_WAY_OUT = "add wandb.entity=YOUR_USER_OR_TEAM to the command"


@dataclass(frozen=True)
class WorkspaceConfig:
    """Which W&B project a workspace is for."""

    project: str = "gpt2"
    entity: str | None = None  # a user or a team; else the one that whoever is logged in goes by


def workspace(project: str, entity: str) -> Any:
    """Return the workspace, which is not yet saved; needs no network.

    Raises ConfigError where wandb-workspaces is not installed.
    """
    try:
        reports = import_module("wandb_workspaces.reports.v2")  # an optional extra
        workspaces = import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise ConfigError(
            "publishing needs wandb-workspaces; pip install 'gpt2-pretrain[workspace]'"
        ) from error
    sections = [
        workspaces.Section(
            name=section.title,
            is_open=True,
            panels=[
                reports.LinePlot(title=panel.title, x="step", title_y=panel.unit or None, **_shown(panel))
                for panel in section.panels
            ],
        )
        for section in SECTIONS
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis="step", smoothing_weight=_SMOOTHING),
    )


def _shown(panel: Panel) -> dict[str, Any]:
    """Return what a diagram of W&B shows: one metric, or in one diagram all of a family."""
    if panel.family:
        return {"metric_regex": f"^{re.escape(panel.family)}.*"}
    return {"y": [panel.metric]}


def publish(config: WorkspaceConfig) -> str:
    """Save the workspace as a view of its project and return its address.

    Raises ConfigError if the service does not take it.
    """
    try:
        entity = config.entity or default_entity()
    except Exception as error:  # no key, no network, no wandb
        raise ConfigError(f"{_NOT_KNOWN} ({_in_a_line(error)}); {_WAY_OUT}") from error
    if not entity:
        raise ConfigError(f"{_NOT_KNOWN}; {_WAY_OUT}")
    view = workspace(config.project, entity)
    try:
        return view.save_as_new_view().url
    except Exception as error:  # whatever the client raises: no key, no network, no such project
        raise ConfigError(f"W&B did not take the workspace ({_in_a_line(error)})") from error


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
