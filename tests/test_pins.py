"""constraints.txt: every pin can be installed on the oldest Python that the package says it runs on."""

from __future__ import annotations

import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent


def test_pins_fit_the_oldest_python() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = wanted.removeprefix(">=") + ".0"
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    installed = {canonicalize_name(found.metadata["Name"]): found for found in distributions()}
    checked = {name: found for name, found in installed.items() if pinned.get(name) == found.version.split("+")[0]}
    assert len(checked) > 50
    refusing = {name: found.metadata["Requires-Python"] for name, found in checked.items()}
    assert not {name: needs for name, needs in refusing.items() if needs and oldest not in SpecifierSet(needs)}
