"""A place to run commands in: a configuration, a corpus, one run that is finished."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

TEXT = "The cat sat on the mat. "


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, framework: Any) -> Path:
    """A directory with base.yaml, a corpus, its shards in shards/, and the finished run runs/base."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "corpus").mkdir()
    for number in range(30):
        (folder / "corpus" / f"{number:02}.txt").write_text(TEXT * (10 + number))
    network = {"class_path": "Transformer", "init_args": {"shape": {"num_layers": 1, "width": 16, "num_heads": 2}}}
    dataset = {"class_path": "TextFiles", "init_args": {"paths": "corpus"}}
    base = {
        "name": "base",
        "model": {
            "class_path": "Pretrain",
            "init_args": {"network": network, "optimizer": {"class_path": "AdamW", "init_args": {"lr": 0.003}}},
        },
        "data": {"class_path": "PackedText", "init_args": {"dataset": dataset, "tokenizer": "Byte", "context_length": 16, "batch_size": 4}},
        "trainer": {
            "max_steps": 4,
            "val_check_interval": 2,
            "limit_val_batches": 1,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
        },
        "checkpoints": {"every_n_steps": 2, "keep_last": 3},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base, sort_keys=False))
    before = Path.cwd()
    os.chdir(folder)
    try:
        made = framework("fit", "--config", "base.yaml")
        assert made.code == 0, made.err
        made = framework("tokenize", "shards", "--dataset", "TextFiles", "--dataset.paths", "corpus", "--tokenizer", "Byte")
        assert made.code == 0, made.err
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test: new runs go to its own runs/, everything else is the place's."""
    for name in ("base.yaml", "corpus", "shards"):
        (tmp_path / name).symlink_to(place / name)
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(framework: Any) -> Callable[..., str]:
    """Runs what must be refused: `refused("fit", ..., saying=[...])` gives the one line, which must have each of the words."""

    def run(*words: object, saying: list[str], code: int = 2) -> str:
        outcome = framework(*words)
        errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
        assert outcome.code == code, outcome
        assert len(errors) == 1 and outcome.err.endswith(f"{errors[0]}\n"), outcome.err
        assert all(line.startswith(("error: ", "note: ", "warning: ", "Pretrain: ", "ended early: ")) for line in outcome.err.splitlines())
        for expected in saying:
            assert expected in errors[0], errors[0]
        return errors[0]

    return run


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes a distribution with one module and entries of a group, as pip leaves it."""
    from framework import registry

    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)

    def _install(distribution: str, source: str, group: str, *names: str, version: str = "1.0") -> None:
        module = distribution.replace("-", "_")
        about = folder / f"{module}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (about / "entry_points.txt").write_text("\n".join([f"[{group}]", *(f"{name} = {module}:{name}" for name in names)]))
        (folder / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        registry._installed.cache_clear()

    yield _install
    registry._installed.cache_clear()
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
