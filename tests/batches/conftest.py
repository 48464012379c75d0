"""A cache of its own for every test, and a small corpus."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from framework.testing.datasets import Texts


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FRAMEWORK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def corpus() -> Texts:
    """200 documents of 0 to 40 words, 20,000 characters or so, some with letters of more than one byte."""
    draw = random.Random(0)
    words = ["one", "two", "naïve", "日本", "end.\n", "seven"]
    return Texts([f"{number} " + " ".join(draw.choices(words, k=draw.randint(0, 40))) for number in range(200)])
