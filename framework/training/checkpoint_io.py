"""How a training state is kept on disk: one `.ckpt` file and, written last, its manifest.

A checkpoint is complete when its manifest (`<name>.json`: size, SHA-256, step, metrics) exists and matches. Lightning's
state flows in and out; must not know when to save (checkpoints.py) or what the state means (the recipe).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from framework.errors import CheckpointError
from framework.files import sha256, write_durably

FORMAT = 1  # of checkpoint and manifest; raised when an older reader would go wrong


def manifest_path(checkpoint: Path) -> Path:
    """Where a checkpoint's manifest is."""
    return checkpoint.with_suffix(".json")


class DurableCheckpointIO(CheckpointIO):
    """Saves atomically (temporary file in the same directory, fsync, rename, fsync of the directory), verifies on load."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the state, then its manifest. Raises StorageError on a full disk; the file that was there stays."""
        target = Path(path)
        manifest_path(target).unlink(missing_ok=True)  # from here until the new one is written, this name is not a checkpoint
        digest, num_bytes = write_durably(target, lambda writer: torch.save(checkpoint, writer))  # type: ignore[arg-type]
        about = checkpoint.get("framework", {})
        step, metrics = about.get("progress", {}).get("step"), about.get("metrics", {})
        _write_manifest(target, {"format": FORMAT, "sha256": digest, "bytes": num_bytes, "step": step, "metrics": metrics})

    def load_checkpoint(
        self, path: Any, map_location: Any | None = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a verified state; only tensors and plain values, never code. Raises CheckpointError naming a damaged file."""
        verify(Path(path))
        state: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        written = state.get("framework", {}).get("format")
        if written is None or written > FORMAT:
            raise CheckpointError(f"{path} has format {written} and this version reads up to {FORMAT}; use the version that wrote it.")
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        remove(Path(path))


def remove(path: Path) -> None:
    """Remove a checkpoint: its manifest first, so that at no moment a manifest promises a file that is gone."""
    manifest_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def annotate(path: Path, metrics: dict[str, float]) -> None:
    """Add metrics to a checkpoint's manifest."""
    manifest = read_manifest(path)
    _write_manifest(path, {**manifest, "metrics": {**manifest["metrics"], **metrics}})


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    text = json.dumps(manifest, indent=1).encode()
    write_durably(manifest_path(path), lambda writer: writer.write(text))


def read_manifest(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest. Raises CheckpointError where there is none or it cannot be read."""
    try:
        manifest: dict[str, Any] = json.loads(manifest_path(path).read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} has no manifest {manifest_path(path).name}: it was never completed; use another checkpoint."
        ) from None
    except ValueError:
        raise CheckpointError(f"the manifest {manifest_path(path)} is damaged; use another checkpoint.") from None
    return manifest


def verify(path: Path) -> dict[str, Any]:
    """Check a checkpoint against its manifest, byte for byte; the manifest. Raises CheckpointError naming what is wrong."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}.")
    manifest = read_manifest(path)
    size = path.stat().st_size
    if size != manifest["bytes"]:
        raise CheckpointError(f"{path} is damaged: {size} bytes, its manifest says {manifest['bytes']}; use another checkpoint.")
    if sha256(path) != manifest["sha256"]:
        raise CheckpointError(f"{path} is damaged: its content does not match its SHA-256; use another checkpoint.")
    return manifest


def completed(directory: Path) -> list[Path]:
    """Checkpoints that have a manifest, oldest first; their content is not verified."""
    return sorted(path for path in directory.glob("step-*.ckpt") if manifest_path(path).is_file())


def newest(directory: Path) -> Path | None:
    """The newest undamaged checkpoint; damaged ones are reported on stderr and passed over. None where there is none.

    Raises CheckpointError when there are checkpoints and every one is damaged: starting afresh would hide the loss.
    """
    candidates = completed(directory)
    for path in reversed(candidates):
        try:
            verify(path)
        except CheckpointError as error:
            print(f"warning: {error}", file=sys.stderr)
        else:
            return path
    if candidates:
        raise CheckpointError(f"every checkpoint in {directory} is damaged; remove the directory to start afresh.")
    return None
