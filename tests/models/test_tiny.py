"""The model that comes with the package: whole, small, made by its recipe, and able to say what it is there to say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from framework.formats import sealed, sources
from framework.generation import Generator
from framework.models import shipped

ROOT = Path(__file__).parent.parent.parent
RECIPE = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text(encoding="utf-8"))
TINY = shipped("tiny")


def differences(asked: Any, made: Any, key: str = "") -> list[str]:
    """Keys of the recipe whose value the model was not made with; a part's class is known by its last word."""
    if isinstance(asked, dict):
        return [found for name, value in asked.items() for found in differences(value, (made or {}).get(name), f"{key}.{name}")]
    same = str(made).endswith(f".{asked}") or made == asked if key.endswith("class_path") else made == asked
    return [] if same else [f"{key}: {asked!r} in the recipe, {made!r} in the model"]


def test_it_is_whole_small_and_its_recipe_s() -> None:
    assert TINY is not None and shipped("tinny") is None and shipped("../models/tiny") is None
    manifest = sealed.verify(TINY)
    assert sum(file.stat().st_size for file in TINY.iterdir()) < 4_000_000
    asked = {name: value for name, value in RECIPE.items() if name in ("name", "seed_everything", "model", "data")}
    assert not differences(asked, manifest["lineage"]["config"])
    assert manifest["lineage"]["progress"]["step"] == RECIPE["trainer"]["max_steps"]
    assert str(ROOT) not in (TINY / "framework.json").read_text(encoding="utf-8")


def test_a_run_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources.directory("tiny") == TINY
    (tmp_path / "tiny" / "model").mkdir(parents=True)
    (tmp_path / "tiny" / "model" / "config.json").write_text("{}")
    assert sources.directory("tiny") == Path("tiny/model")


@pytest.mark.parametrize(
    ("prompt", "goes_on"),
    [
        ("the cat sat on the", " mat."),
        ("the dog sat on the", " bed."),
        ("tom had a red ball. he put the ball in the box. where is the", " red ball, asked"),
        ("mia had five apples. she gave two apples to ben. now", " mia has three apples and ben has two apples."),
    ],
)
def test_it_knows_its_language(prompt: str, goes_on: str) -> None:
    generator = Generator.load("tiny")
    assert generator.generate(prompt, temperature=0.0, max_new_tokens=12).startswith(goes_on)


@pytest.mark.slow
def test_its_recipe_gives_the_same_bits_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        command = [sys.executable, "-m", "framework", "fit", "--config", "recipes/tiny.yaml", "--name", name, "--trainer.max_steps", "60"]
        subprocess.run(command, cwd=tmp_path, env={**os.environ, "FRAMEWORK_CACHE": str(tmp_path / name)}, check=True, capture_output=True)
    one, two = ((tmp_path / "runs" / name / "model" / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
