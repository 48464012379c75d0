"""Where a run lives: `runs/<name>/{config.yaml, checkpoints/, model/, logs/}`, and how a new one meets an old one. No torch.

A name and what the user wants with it flow in; the directory, ready for use, flows out.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from framework.errors import CheckpointError, ConfigError

MARKS = ("config.yaml", "checkpoints", "model", "logs")  # what makes a directory a run's


class RunDirectory:
    """One run's files.

    Args:
        root: the directory itself.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config, self.checkpoints, self.model, self.logs = (root / mark for mark in MARKS)

    def holds_work(self) -> bool:
        """Whether something would be lost if the run started again."""
        return self.model.exists() or any(self.checkpoints.glob("*.ckpt"))

    def start_afresh(self, overwrite: bool) -> None:
        """Make room for a new run. Raises ConfigError when that would destroy an old one's work and `overwrite` is not set."""
        if self.holds_work() and not overwrite:
            raise ConfigError(f"{self.root} holds a run already: go on with it (--resume auto), take another --name, or --overwrite true.")
        for mark in (self.config, self.checkpoints, self.model, self.logs):
            if mark.is_dir():
                shutil.rmtree(mark)
            else:
                mark.unlink(missing_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, resume: str) -> Path | None:
        """The checkpoint that `--resume auto|PATH` means; None where `auto` finds none. Raises CheckpointError for a bad PATH."""
        from framework.training.checkpoint_io import newest, verify

        if resume == "auto":
            return newest(self.checkpoints) if self.checkpoints.is_dir() else None
        path = Path(resume)
        if path.is_dir():
            found = newest(path / "checkpoints" if (path / "checkpoints").is_dir() else path)
            if found is None:
                raise CheckpointError(f"--resume {resume}: there is no completed checkpoint in that directory.")
            return found
        verify(path)
        return path
