"""Large files are hashed in parts by several threads: any changed, missing or added byte is found all the same."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from framework.errors import CheckpointError
from framework.formats import sealed


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sealed directory with a file of three parts and a bit, one of two exactly, and a small one."""
    monkeypatch.setattr(sealed, "PART_BYTES", 1000)
    draw = random.Random(0)
    for name, size in {"large": 3001, "even": 2000, "small": 999, "empty": 0}.items():
        (tmp_path / name).write_bytes(draw.randbytes(size))
    sealed.seal(tmp_path, {})
    return tmp_path


def test_parts_are_written_for_large_files_only(directory: Path) -> None:
    manifest = sealed.verify(directory)
    assert {name: len(parts) for name, parts in manifest["parts"].items()} == {"large": 4, "even": 2}


@pytest.mark.parametrize("name", ["large", "even", "small"])
def test_every_change_is_found(directory: Path, name: str) -> None:
    file, draw = directory / name, random.Random(1)
    whole = file.read_bytes()
    changed = [bytearray(whole) for _ in range(20)]
    for content in changed:
        content[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    for content in (*changed, whole[:-1], whole + b"\0", whole[:1000], whole + bytes(1000), b""):
        if content != whole:
            file.write_bytes(content)
            with pytest.raises(CheckpointError, match=f"{name} is damaged"):
                sealed.verify(directory)
    file.write_bytes(whole)
    sealed.verify(directory)


def test_what_damage_made_go_wrong_is_told_as_damage(directory: Path) -> None:
    (directory / "large").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="large is damaged"), sealed.verified(directory):
        raise CheckpointError("a tensor is missing")
    (directory / "large").unlink()
    with pytest.raises(CheckpointError, match="large is missing"):
        sealed.verify(directory)


def test_a_manifest_without_parts(directory: Path) -> None:
    """As older versions wrote it."""
    manifest = json.loads((directory / "framework.json").read_text())
    del manifest["parts"], manifest["sha256"]
    sealed.write_json(directory / "framework.json", manifest | {"sha256": sealed._digest(manifest)})
    sealed.verify(directory)
    (directory / "large").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="large is damaged"):
        sealed.verify(directory)
