"""How far a run has come: read from its checkpoints, never from what SLURM says of its jobs."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from conf.exits import CorruptError
from pretrain.storage import commit, manifest

_CHECKPOINTS = "checkpoints"
_CONFIG = "config.yaml"


def is_done(run_dir: Path, settings: DictConfig | None = None) -> bool:
    """Say whether nothing is left to train, by the run's own settings or those that it is to have."""
    raw = _in_force(run_dir, settings)
    if raw is None or OmegaConf.is_missing(raw, "steps"):
        return False
    last = min(int(raw.steps), int(OmegaConf.select(raw, "stop_at") or raw.steps))
    return newest_step(run_dir) >= last or ended_early(run_dir, raw)


def ended_early(run_dir: Path, settings: DictConfig | None = None) -> bool:
    """Say whether the run's patience is at an end: the newest checkpoint counts the validations in vain."""
    raw = _in_force(run_dir, settings)
    patience = OmegaConf.select(raw, "validation.patience") if raw is not None else None
    return patience is not None and _worse_validations(run_dir) >= int(patience)


def newest_step(run_dir: Path) -> int:
    """Return the step of the newest checkpoint; 0 if there is none."""
    found = commit.checkpoints(run_dir / _CHECKPOINTS)
    return (manifest.step_of(found[0].name) or 0) if found else 0


def _worse_validations(run_dir: Path) -> int:
    """Return how many validations in a row, up to the newest checkpoint, were no better than the best."""
    for path in commit.checkpoints(run_dir / _CHECKPOINTS)[:1]:
        try:
            facts = manifest.decode((path / manifest.MANIFEST_NAME).read_bytes()).facts
        except (CorruptError, OSError):  # the trainer passes it over, and goes on
            continue
        return int(facts.get("progress", {}).get("worse_validations", 0))
    return 0


def _in_force(run_dir: Path, settings: DictConfig | None) -> DictConfig | None:
    """Return the `settings`, or those with which the run has begun; None if it has not."""
    path = run_dir / _CONFIG
    if not path.exists():
        return None
    raw = settings if settings is not None else OmegaConf.load(path)
    assert isinstance(raw, DictConfig)
    return raw
