"""Where recipes/ and configs/ are found: the working directory, the installation, plugins; in that order."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from framework import share
from framework.errors import ConfigError


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plugin whose package `a_plugin` carries a recipe of its own, one that the core has too, and a part."""
    package = tmp_path / "site" / "a_plugin"
    for file in ("recipes/theirs.yaml", "recipes/pretrain.yaml", "configs/network/odd.yaml"):
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text("a: 1\n")
    (package / "__init__.py").write_text("raise SystemError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    entry = EntryPoint("a-plugin", "a_plugin", "framework.share")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry] if group == "framework.share" else [])
    share.roots.cache_clear()
    yield package
    share.roots.cache_clear()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_installation_s_from_anywhere(elsewhere: Path) -> None:
    found = share.find("recipes/pretrain.yaml")
    assert found.is_absolute() and found.read_text().startswith("#")
    assert share.find("configs/trainer/smoke.yaml").is_file()


def test_the_working_directory_comes_first(elsewhere: Path) -> None:
    (elsewhere / "recipes").mkdir()
    (elsewhere / "recipes" / "pretrain.yaml").write_text("mine: 1\n")
    assert share.find("recipes/pretrain.yaml") == Path("recipes/pretrain.yaml")
    assert [file for file in share.files("recipes") if file.name == "pretrain.yaml"] == [Path("recipes/pretrain.yaml")]


def test_plugins_add_theirs_and_are_not_imported(plugin: Path, elsewhere: Path) -> None:
    assert share.find("recipes/theirs.yaml") == plugin / "recipes" / "theirs.yaml"
    assert share.find("configs/network/odd.yaml") == plugin / "configs" / "network" / "odd.yaml"
    assert plugin not in share.find("recipes/pretrain.yaml").parents
    names = [file.name for file in share.files("recipes")]
    assert {"theirs.yaml", "pretrain.yaml"} <= set(names) and len(names) == len(set(names))


@pytest.mark.parametrize(
    "path, message",
    [
        (
            "recipes/pretrian.yaml",
            r"no file recipes/pretrian\.yaml \(looked for .*elsewhere.*pretrian\.yaml, .*\); did you mean recipes/pretrain\.yaml\?",
        ),
        ("pretrain.yaml", r"no file pretrain\.yaml \(looked for \S*elsewhere/pretrain\.yaml\)$"),
        ("recipes", "no file recipes"),
        ("/nowhere/recipes/pretrain.yaml", r"no file /nowhere/recipes/pretrain\.yaml \(looked for /nowhere"),
        ("recipes/../recipes/nothing-like-it.yaml", "no file"),
    ],
)
def test_what_is_missing_is_named_with_the_places(elsewhere: Path, path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        share.find(path)
    assert "\n" not in str(caught.value)
