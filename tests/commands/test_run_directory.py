"""Where runs live, how a new one meets an old one, and which checkpoint `--resume` means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from framework.commands.run_directory import RunDirectory
from framework.errors import CheckpointError, ConfigError, StorageError
from framework.training.checkpoint_io import DurableCheckpointIO


def save(run: RunDirectory, step: int) -> Path:
    path = run.checkpoints / f"step-{step:08}.ckpt"
    state = {"weights": torch.zeros(9), "framework": {"format": 1, "progress": {"step": step}, "metrics": {}}}
    DurableCheckpointIO().save_checkpoint(state, path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with one checkpoint, and a note of the user's."""
    run = RunDirectory(tmp_path / "run")
    save(run, 1)
    run.config.write_text("old")
    run.logs.mkdir()
    (run.root / "notes.txt").write_text("mine")
    return run


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../../x", "/x", "a/.."])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="names no directory inside"):
        RunDirectory.named(tmp_path, name)
    assert RunDirectory.named(tmp_path, "sweep/a").root == tmp_path / "sweep" / "a"


def test_old_work_is_not_overwritten(run: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a run already: .*--resume auto.*--name.*--overwrite true"):
        run.refuse_to_overwrite()
    RunDirectory(tmp_path / "new").refuse_to_overwrite()
    started = RunDirectory(tmp_path / "started")  # it never came to a checkpoint
    started.logs.mkdir(parents=True)
    started.refuse_to_overwrite()


def names(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.root.iterdir())


def test_a_replacement_that_began_replaces(run: RunDirectory) -> None:
    with run.replaced(lambda: True):
        assert names(run) == [".replaced", "notes.txt"]
        run.config.write_text("new")
    assert names(run) == ["config.yaml", "notes.txt"]
    assert run.config.read_text() == "new"


def test_one_that_fails_before_it_began_changes_nothing(run: RunDirectory) -> None:
    def start() -> None:
        with run.replaced(lambda: False):
            run.config.write_text("new")
            run.model.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start()
    assert names(run) == ["checkpoints", "config.yaml", "logs", "notes.txt"]
    assert run.config.read_text() == "old"
    assert run.checkpoint("auto") == run.checkpoints / "step-00000001.ckpt"


def test_a_new_run_that_fails_before_it_began_leaves_nothing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "new")

    def start() -> None:
        with run.replaced(lambda: False):
            run.config.write_text("new")
            raise ValueError

    with pytest.raises(ValueError):
        start()
    assert not run.root.exists()


def test_one_that_fails_later_keeps_what_it_made(run: RunDirectory) -> None:
    def start() -> None:
        with run.replaced(lambda: True):
            save(run, 7)
            raise ValueError

    with pytest.raises(ValueError):
        start()
    assert names(run) == ["checkpoints", "notes.txt"]
    assert run.checkpoint("auto") == run.checkpoints / "step-00000007.ckpt"


def test_what_a_killed_replacement_put_aside_is_not_lost(run: RunDirectory) -> None:
    """The process ended inside `replaced`; the next new run fails too: the first run's work is still there."""
    aside = run.root / ".replaced"
    aside.mkdir()
    for name in ("checkpoints", "config.yaml"):
        (run.root / name).rename(aside / name)
    with pytest.raises(ValueError), run.replaced(lambda: False):
        raise ValueError
    assert run.checkpoint("auto") == run.checkpoints / "step-00000001.ckpt"


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    replaced = RunDirectory(tmp_path / "file" / "x").replaced(lambda: True)
    with pytest.raises(StorageError, match=r"file/x cannot be made .*--runs_dir"):
        replaced.__enter__()


def test_resume(run: RunDirectory, tmp_path: Path) -> None:
    newest = save(run, 12)
    assert run.checkpoint("auto") == newest
    assert run.checkpoint(str(run.root)) == newest
    assert run.checkpoint(str(run.checkpoints)) == newest
    assert run.checkpoint(str(run.checkpoints / "step-00000001.ckpt")) == run.checkpoints / "step-00000001.ckpt"
    assert RunDirectory(tmp_path / "new").checkpoint("auto") is None
    with pytest.raises(CheckpointError, match="no checkpoint nowhere"):
        run.checkpoint("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"--resume .*empty: there is no completed checkpoint"):
        run.checkpoint(str(tmp_path / "empty"))
