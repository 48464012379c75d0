"""A checkpoint is whole or absent, verified on load, and never code (L2, L12, TRAP-105, 107-109, 118, 121)."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from framework.errors import CheckpointError, StorageError
from framework.training import checkpoint_io
from framework.training.checkpoint_io import DurableCheckpointIO, annotate, completed, manifest_path, newest, read_manifest, verify


def state(step: int, size: int = 1000) -> dict[str, Any]:
    return {"weights": torch.full((size,), float(step)), "framework": {"format": 1, "progress": {"step": step}, "metrics": {}}}


def save(folder: Path, step: int, size: int = 1000) -> Path:
    path = folder / f"step-{step:08}.ckpt"
    DurableCheckpointIO().save_checkpoint(state(step, size), path)
    return path


def test_round_trip_and_manifest(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert torch.equal(DurableCheckpointIO().load_checkpoint(path)["weights"], torch.full((1000,), 7.0))
    manifest = verify(path)
    assert manifest["step"] == 7
    assert manifest["bytes"] == path.stat().st_size
    annotate(path, {"val/loss": 1.5})
    assert read_manifest(path)["metrics"] == {"val/loss": 1.5}
    assert verify(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["step-00000007.ckpt", "step-00000007.json"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(path.read_bytes()[:-10]), lambda path: path.write_bytes(b"")])
def test_damage_is_named_and_the_previous_used(tmp_path: Path, damage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    damage(bad)
    with pytest.raises(CheckpointError, match=r"step-00000002.ckpt is damaged"):
        DurableCheckpointIO().load_checkpoint(bad)
    assert newest(tmp_path) == good
    assert "step-00000002.ckpt is damaged" in capsys.readouterr().err


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    flip(save(tmp_path, 1))
    with pytest.raises(CheckpointError, match="every checkpoint"):
        newest(tmp_path)


def test_without_manifest_it_was_never_completed(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    manifest_path(path).unlink()
    assert completed(tmp_path) == []
    assert newest(tmp_path) is None
    with pytest.raises(CheckpointError, match="never completed"):
        verify(path)


def test_a_damaged_manifest_is_an_error(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    manifest_path(path).write_text("{")
    with pytest.raises(CheckpointError, match="manifest"):
        verify(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.ckpt"
    DurableCheckpointIO().save_checkpoint({**state(1), "framework": {"format": checkpoint_io.FORMAT + 1}}, path)
    with pytest.raises(CheckpointError, match="format 2"):
        DurableCheckpointIO().load_checkpoint(path)


class Payload:
    def __reduce__(self) -> Any:
        return (os.system, ("touch executed",))


def test_no_code_is_ever_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRAP-121, also under the environment variable that turns torch's default off."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "step-00000001.ckpt"
    DurableCheckpointIO().save_checkpoint({**state(1), "x": Payload()}, path)
    with pytest.raises(Exception, match="eights"):
        DurableCheckpointIO().load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    """A real failed write: the process may write no file over 100 kB."""
    path = save(tmp_path, 1)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="could not be written"):
            save(tmp_path, 2, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert newest(tmp_path) == path
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".ckpt", ".json"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """TRAP-109, on a real 2 MB filesystem where one can be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("mounting needs privileges")
    try:
        path = save(place, 1)
        with pytest.raises(StorageError, match=r"the disk is full: .*step-00000002.ckpt"):
            save(place, 2, size=1_000_000)
        assert newest(place) == path
        assert [file.suffix for file in sorted(place.iterdir())] == [".ckpt", ".json"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_no_space_is_recognised_behind_torchs_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, data: bytes) -> int:
        self.error = OSError(errno.ENOSPC, "No space left on device")
        raise self.error

    monkeypatch.setattr("framework.files.HashingWriter.write", full)
    with pytest.raises(StorageError, match="disk is full"):
        save(tmp_path, 1)


SAVER = """
import sys, torch
from pathlib import Path
from framework.training.checkpoint_io import DurableCheckpointIO
io = DurableCheckpointIO()
print("ready", flush=True)
for step in range(1, 100000):
    state = {"weights": torch.full((200_000,), float(step)), "framework": {"format": 1, "progress": {"step": step}, "metrics": {}}}
    io.save_checkpoint(state, Path(sys.argv[1]) / f"step-{step % 3:08}.ckpt")
"""


def test_killed_while_saving_the_newest_complete_one_loads(tmp_path: Path) -> None:
    """TRAP-105: SIGKILL at random moments of endless saving, over existing names too; every checkpoint that claims to be complete is."""
    draw = random.Random()
    child = subprocess.Popen(["true"])
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.1 + draw.random() * 0.2)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        paths = completed(tmp_path)
        assert paths
        for path in paths:
            loaded = DurableCheckpointIO().load_checkpoint(path)
            assert bool((loaded["weights"] == loaded["framework"]["progress"]["step"]).all())
