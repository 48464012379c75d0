"""Where a run lives: `runs/<name>/{config.yaml, checkpoints/, model/, logs/}`, and how a new one meets an old one. No torch.

A name and what the user wants with it flow in; the directory, ready for use, flows out.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from framework.errors import CheckpointError, ConfigError, StorageError

MARKS = ("config.yaml", "checkpoints", "model", "logs", "adapter")  # what makes a directory a run's
ASIDE = ".replaced"  # where an old run's files wait until the new one has taken a step


class RunDirectory:
    """One run's files.

    Args:
        root: the directory itself.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config, self.checkpoints, self.model, self.logs, self.adapter = (root / mark for mark in MARKS)

    @classmethod
    def named(cls, runs: Path, name: str) -> RunDirectory:
        """The run called `name`. Raises ConfigError for a name that leads elsewhere: starting again deletes files."""
        given = Path(name)
        if not given.parts or given.is_absolute() or ".." in given.parts:
            raise ConfigError(f"--name {name!r} names no directory inside {runs}; give a word such as --name first-try.")
        return cls(runs / given)

    def holds_work(self) -> bool:
        """Whether something would be lost if the run started again."""
        return self.model.exists() or any(self.checkpoints.glob("*.ckpt"))

    def refuse_to_overwrite(self) -> None:
        """Raise ConfigError when a new run would destroy an old one's work."""
        if self.holds_work():
            raise ConfigError(f"{self.root} holds a run already: go on with it (--resume auto), take another --name, or --overwrite true.")

    @contextmanager
    def replaced(self, begun: Callable[[], bool]) -> Iterator[None]:
        """An empty directory for a new run; the old one's files, or nothing, come back when the new one fails before it has `begun`.

        Raises StorageError when the directory cannot be made.
        """
        aside = self.root / ASIDE
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if self.holds_work():
                _remove(aside)  # of a process that was killed; what it had put aside is older than this
                aside.mkdir()
                _move(self.root, aside)
            else:
                _clear(self.root)
        except OSError as error:
            raise StorageError(f"{self.root} cannot be made ({error.strerror}); choose another place with --runs_dir.") from error
        try:
            yield
        except BaseException:
            if not begun():
                _clear(self.root)
                _move(aside, self.root)
            _remove(aside)
            with suppress(OSError):  # what the user put there stays
                self.root.rmdir()
            raise
        _remove(aside)

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


def _move(source: Path, target: Path) -> None:
    for mark in MARKS:
        if (source / mark).exists():
            (source / mark).rename(target / mark)


def _clear(root: Path) -> None:
    for mark in MARKS:
        _remove(root / mark)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
