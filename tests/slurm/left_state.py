"""What a run leaves of its state, as far as its step and its end are read from it."""

from pathlib import Path
from typing import Any

from pretrain.storage import commit


def leave_state(run_dir: Path, step: int, **progress: Any) -> None:
    """Leave a checkpoint of a step that counts, without weights."""
    root = run_dir / "checkpoints"
    temporary = commit.begin(root, step, "n")
    record = commit.write(temporary, "state", [b""])
    borne: dict[str, Any] = {"run_id": "r", "config_sha256": "0" * 64, "dataset_fingerprint": "0" * 64}
    facts = {"progress": {"step": step, **progress}}
    manifest = commit.Manifest(step, world_size=1, nonce="n", files=(record,), facts=facts, **borne)
    commit.commit(root, temporary, manifest)
