"""How far a run has come: read from its checkpoints, never from what SLURM says of its jobs."""

from pathlib import Path

from omegaconf import OmegaConf

from pretrain.storage import commit, manifest

_CHECKPOINTS = "checkpoints"


def is_done(run_dir: Path) -> bool:
    """Say whether the run's last step is in a checkpoint."""
    path = run_dir / "config.yaml"
    if not path.exists():
        return False
    raw = OmegaConf.load(path)
    last = min(int(raw.steps), int(OmegaConf.select(raw, "stop_at") or raw.steps))
    return newest_step(run_dir) >= last


def newest_step(run_dir: Path) -> int:
    """Return the step of the newest checkpoint; 0 if there is none."""
    found = commit.checkpoints(run_dir / _CHECKPOINTS)
    return (manifest.step_of(found[0].name) or 0) if found else 0
